"""How fast the drive's exact attention is, beside torch's over the same arrays in memory."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiers.csd.commands import Attend, Config, Precision, WriteKV
from tiers.csd.drive import ComputationalDrive
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.geometry import FlashGeometry
from tiers.csd.memory_pages import MemoryPages
from tiers.csd.sizing import drive_for

Row = dict[str, Any]

AIM = 1.5
"""Times torch's time, and the time to read the keys and values once: as long as the drive may take."""

_CONFIG = Config(0, 1, kv_heads=3, heads_per_kv=3, head_dim=64, link_dtype="float32", key_copies=1)
_GEOMETRY = FlashGeometry()


def attend_rows(num_tokens: int = 8192, rounds: int = 15, seed: int = 0) -> list[Row]:
    """Two rows for each precision of the pages: milliseconds of one layer of 9 heads, 3 of KV, 64 channels.

    The engine alone; and a drive, from the query in the host to the output in the host, over its queue, with pages
    read from its image and their checksums compared. ``read_ms`` is one read of as many bytes of a file in memory,
    ``aim_ms`` what the drive may take: 1.5 times torch, and that. All take turns; figures are medians.
    """
    sizes: tuple[Precision, ...] = ("float16", "float32")
    return [row for dtype in sizes for row in _rows(num_tokens, rounds, seed, dtype)]


def _rows(num_tokens: int, rounds: int, seed: int, dtype: Precision) -> list[Row]:
    draw = np.random.default_rng(seed)
    config = replace(_CONFIG, dtype=dtype, max_tokens=num_tokens)
    keys, values = (draw.standard_normal((3, num_tokens, 64), np.float32).astype(dtype) for _ in range(2))
    query = draw.standard_normal((9, 64), np.float32)
    pages = MemoryPages(config.shape(_GEOMETRY))
    pages.append(keys, values)
    engine = DenseEngine()
    command = Attend(0, 0, np.array([0]), np.array([num_tokens]), query[None])
    with TemporaryDirectory() as directory, _drive(Path(directory), config, keys, values) as drive:
        copy = Path(directory) / "copy"
        copy.write_bytes(keys.tobytes() + values.tobytes())
        calls = [
            lambda: engine.attend(query, pages),
            _torch(query, keys, values),
            lambda: drive.attend(command).wait(),
            _reading(copy),
        ]
        engine_ms, peer_ms, drive_ms, read_ms = _medians(calls, rounds)
    peer = {"unit": "ms", "peer": peer_ms, "peer_name": f"torch {torch.__version__}, scaled_dot_product_attention"}
    name = f"dense attend, {num_tokens} tokens, {dtype} pages"
    aim_ms = AIM * peer_ms + read_ms
    return [
        {"name": name, "ours": engine_ms, **peer, "ratio_to_peer": peer_ms / engine_ms},
        {
            "name": f"{name}, over a drive's queue",
            "ours": drive_ms,
            **peer,
            "ratio_to_peer": peer_ms / drive_ms,
            "read_ms": read_ms,
            "aim_ms": aim_ms,
            "note": f"{drive_ms / aim_ms:.2f} of {AIM} times torch and reading, {read_ms:.2f} ms",
        },
    ]


def _drive(directory: Path, config: Config, keys: NDArray[Any], values: NDArray[Any]) -> ComputationalDrive:
    num_tokens = keys.shape[1]
    drive = ComputationalDrive(directory / "image", drive_for(config, _GEOMETRY, sequences=1, tokens=num_tokens))
    try:
        drive.configure(config)
        drive.write_kv(WriteKV(0, 0, 0, 0, keys, values)).wait()
    except BaseException:
        drive.close()
        raise
    return drive


def _torch(query: NDArray[Any], keys: NDArray[Any], values: NDArray[Any]) -> Callable[[], object]:
    q = torch.from_numpy(query.astype(keys.dtype))[None, :, None]
    k, v = (torch.from_numpy(part)[None] for part in (keys, values))
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def _reading(path: Path) -> Callable[[], object]:
    target = bytearray(path.stat().st_size)

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            done = os.preadv(file.fileno(), [target], 0)
        assert done == len(target), "a file in memory is read at once"

    return read


def _medians(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of each, after a first call that is not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if turn:
                times[index].append(time.perf_counter() - start)
    return [1e3 * statistics.median(of_call) for of_call in times]
