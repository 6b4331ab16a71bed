"""The budget holds for the process as the operating system sees it, not only for what the tiers count."""

import json
import os
import pydoc_data.topics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offload.peak_memory import peak_rss_nbytes
from offload.sizes import parse_size
from simulators.profile import DEFAULT
from simulators.profile_file import write_profile

INTERPRETER_AND_LIBRARIES = 500 * 2**20
"""Importing torch and transformers alone takes about 380 MiB."""


@pytest.mark.parametrize(
    ("device", "host", "batch", "drive_bytes_per_s"),
    [
        ("128MiB", "16MiB", 1, 1e9),
        ("128MiB", "16MiB", 1, 5e7),  # slow: prefill in few large chunks, so that weights are read less often
        ("256MiB", "32MiB", 3, 5e8),
    ],
)
def test_a_run_peaks_at_its_budget_and_the_libraries(
    smollm2: Path, tmp_path: Path, device: str, host: str, batch: int, drive_bytes_per_s: float
) -> None:
    profile = tmp_path / "cache" / "offload-runtime" / "profile.json"
    profile.parent.mkdir(parents=True)
    drive = replace(DEFAULT.links["nvme->device"], read_bytes_per_s=drive_bytes_per_s, by_size=None)
    write_profile(replace(DEFAULT, links={**DEFAULT.links, "nvme->device": drive}), profile)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "offload.cli", "run", str(smollm2), "--json"),
            *("--prompt-file", pydoc_data.topics.__file__, "--prompt-tokens", "1500", "--max-new-tokens", "3"),
            *(
                "--device-memory",
                device,
                "--host-memory",
                host,
                "--batch",
                str(batch),
                "--nvme-dir",
                str(tmp_path / "n"),
            ),
        ],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert result["links"]["nvme->device"]["bytes"] > 2**30
    assert result["peak_rss_bytes"] < parse_size(device) + parse_size(host) + INTERPRETER_AND_LIBRARIES


def test_counts_what_was_touched_and_given_back() -> None:
    """In a process of its own, which a larger one has started."""
    ballast = np.ones(300 * 2**20, np.uint8)
    program = (
        "from offload.peak_memory import peak_rss_nbytes; before = peak_rss_nbytes(); "
        "bytearray(b'1' * (64 << 20)); print(before, peak_rss_nbytes())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    before, after = map(int, ran.stdout.split())
    assert before < 100 * 2**20
    assert after - before > 60 * 2**20
    assert peak_rss_nbytes() > ballast.nbytes
