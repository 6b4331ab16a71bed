"""A task with an obvious answer: a few documents asked for again and again among many that are asked for once."""

import json
from pathlib import Path
from typing import Any

import yaml

BLOCK = 512 * 23_040
"""Bytes of a block of the trace: 512 tokens of SmolLM2-135M."""

HOT: dict[str, Any] = {
    "hardware": "t4",
    "model": "smollm2-135m",
    "workload": {"trace": "hot.jsonl"},
    "tiers": {"device": 4 * BLOCK, "host": {"min": 4 * BLOCK, "max": 24 * BLOCK, "step": BLOCK}},
    "policies": ["fifo", "lru", "lfu", "mru"],
}


FEW: dict[str, Any] = {
    "policies": ["fifo", "lfu"],
    "tiers": {"device": 4 * BLOCK, "host": [6 * BLOCK, 12 * BLOCK]},
}
"""Changes that leave four settings."""


def write_hot(folder: Path, name: str = "s.yaml", rounds: int = 8, **changes: Any) -> Path:
    """A scenario and its trace: in each round four documents of two blocks, twice, then ten that nobody asks for again.

    Only LFU keeps the four with so little room, from ten blocks of the host up: then it finds 10 of 24 blocks.
    """
    lines: list[str] = []
    new = 100
    for _ in range(rounds):
        prompts = [[2 * hot, 2 * hot + 1] for hot in range(4)] * 2
        for _ in range(10):
            prompts.append([new, new + 1])
            new += 2
        for blocks in prompts:
            lines.append(
                json.dumps(
                    {"timestamp": 1000 * len(lines), "input_length": 1024, "output_length": 8, "hash_ids": blocks}
                )
            )
    (folder / "hot.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / name
    path.write_text(yaml.safe_dump({**HOT, **changes}), encoding="utf-8")
    return path
