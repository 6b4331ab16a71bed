"""``bench experts`` on a tiny model, end to end: every run in a process of its own."""

import os
from pathlib import Path

import pytest

from offload.bench.experts import MATCHES, Sizes, bench_experts
from offload.bench.memory_limit import MemoryLimit
from tests.offload.zoo import save_model

SIZES = Sizes(
    prompt=8,
    steps=12,
    memory_limit=None,
    slots_share=0.5,
    precisions=("int8", "int8+int2"),
    fio_s=0.05,
    most_file_nbytes=2**23,
)
LOW = "experts in int8+int2, the lower where little is added (HOBBIT)"


@pytest.mark.slow
def test_rows(tmp_path: Path) -> None:
    model = save_model(
        tmp_path / "model", "mixtral", vocab_size=49152, num_local_experts=6, num_experts_per_tok=2, num_hidden_layers=4
    )
    found = bench_experts(model, tmp_path / "nvme", sizes=SIZES)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"all resident", *MATCHES, "experts in int8", LOW}
    assert rows["all resident"]["peer_name"] == "transformers"
    belady = {rows[name]["belady_hit_ratio"] for name in MATCHES}
    assert len(belady) == 1, "one trace, one number of slots"
    for name, (_, predictor) in MATCHES.items():
        row = rows[name]
        assert row["expert_slots"] == 12
        assert row["ours"] > 0
        assert row["ratio_to_limit"] > 0
        assert row["prefill_over_reading"] > 0
        assert row["peer_name"] == "accelerate"
        if predictor == "none":
            assert row["prediction_accuracy"] is None
            assert row["belady_gap"] >= -1e-9, "nobody beats Belady without fetching ahead"
        else:
            assert 0 <= row["prediction_accuracy"] <= 1
    assert found["memory_limit_bytes"] is None
    assert rows[LOW]["expert_slots"] == rows["experts in int8"]["expert_slots"]
    assert "llama.cpp" in found["peer_errors"], "it is not installed, or is not given a Mixtral"


def test_memory_limit() -> None:
    """Kept where this user may make cgroups, and said so where not; gone afterwards."""
    program = "print(len(bytearray(200 * 2**20)))"
    with MemoryLimit.of(64 * 2**20) as limit:
        ran = limit.run(["python3", "-c", program], timeout_s=60)
        if limit.is_enforced:
            assert ran.returncode != 0
            assert (limit.peak_nbytes() or 0) <= 64 * 2**20
        else:
            assert os.getuid() or not os.access("/sys/fs/cgroup", os.W_OK) or ran.returncode == 0
    assert limit.group is None or not limit.group.exists()
    with MemoryLimit.of(None) as limit:
        assert not limit.is_enforced
        assert limit.run(["python3", "-c", program], timeout_s=60).stdout == f"{200 * 2**20}\n"
