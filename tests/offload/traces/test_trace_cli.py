"""``offload trace`` as a real process."""

import json
from pathlib import Path

from simulators.expert_trace import ExpertTrace
from tests.offload.test_cli import complaint
from tests.offload.test_cli import offload as run_command
from tests.offload.zoo import save_model

CONTRACT = {"requests", "accesses", "unique_blocks", "ideal_hit_ratio"}


def test_a_trace_is_recorded_and_explained(tmp_path: Path) -> None:
    """The same figures when it is recorded, when it is read again and for people; nothing else on any stream."""
    save_model(tmp_path / "model", "mixtral", num_local_experts=6, num_experts_per_tok=2)
    (tmp_path / "ids").write_text(" ".join(str(3 + i % 190) for i in range(60)), encoding="utf-8")
    sizes = ["--requests", "3", "--prompt-tokens", "16", "--max-new-tokens", "4", "--forced", "--gate-inputs"]
    ran = run_command("trace", "record", "model", "--prompt-file", "ids", "-o", "t.npz", *sizes, "--json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    recorded = json.loads(ran.stdout)
    assert recorded.keys() >= CONTRACT
    assert (recorded["requests"], recorded["tokens"]) == (3, 60)
    assert recorded["bytes"] == (tmp_path / "t.npz").stat().st_size
    assert len(ExpertTrace.load(tmp_path / "t.npz").tokens) == 60
    told = json.loads(run_command("trace", "info", "t.npz", "--json", cwd=tmp_path).stdout)
    assert told == {key: value for key, value in recorded.items() if key not in ("out", "bytes")} | {"file": "t.npz"}
    assert told["per_layer"][0]["next_gate_recall"] is None
    shown = run_command("trace", "info", "t.npz", "--slots", "24", cwd=tmp_path)
    assert f"{told['accesses']} accesses to {told['unique_blocks']} experts; a perfect cache of 24" in shown.stdout
    assert "repeated" in shown.stdout


def test_a_dense_model_is_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Storage is memory. " * 20, encoding="utf-8")
    arguments = ["trace", "record", str(tiny_llama), "--prompt-file", "text", "-o", "t.npz", "--prompt-tokens", "9"]
    ran = run_command(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert "'llama' has no routed experts; name a mixture of experts" in complaint(ran)
    assert not (tmp_path / "t.npz").exists()
