"""One class in a file of somebody else's, named the same way to the simulator and to a real run."""

import json
from pathlib import Path

from tests.offload.test_cli import offload
from tests.offload.zoo import save_model, smallest_budget

POLICY = '''
from collections import OrderedDict
from pathlib import Path


class Patient:
    """Evicts what came first, and leaves a mark where it did. It knows nothing of this project."""

    def __init__(self, capacity):
        self.keys = OrderedDict()
        self.is_tried = capacity == 8

    def insert(self, key, cost=1.0):
        self.keys[key] = None

    def touch(self, key):
        pass

    def remove(self, key):
        del self.keys[key]

    def evict(self, n, protected=()):
        victims = [key for key in self.keys if key not in protected][:n]
        if len(victims) < n:
            return []
        for key in victims:
            del self.keys[key]
        if not self.is_tried:
            with Path("evicted.txt").open("a") as file:
                print(*victims, sep="\\n", file=file)
        return victims

    def __contains__(self, key):
        return key in self.keys

    def __len__(self):
        return len(self.keys)
'''
SCENARIO = """
hardware: rtx4090
model: smollm2-135m
workload: {kind: chat, num_requests: 60, block_tokens: 64}
tiers: {device: 64MiB, host: 64MiB}
policies: [fifo, "theirs:Patient"]
"""


def evicted(directory: Path) -> list[str]:
    """What the policy left since this was asked last, but for the eight keys with which it is tried before."""
    mark = directory / "evicted.txt"
    lines = mark.read_text(encoding="utf-8").splitlines()
    mark.unlink()
    return lines


def test_it_decides_in_both_clocks(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(POLICY, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    simulated = offload("simulate", "s.yaml", "--json", cwd=tmp_path)
    assert (simulated.returncode, simulated.stderr) == (0, "")
    fifo, theirs, _ = json.loads(simulated.stdout)["rows"]
    assert theirs == {**fifo, "policy": "theirs:Patient"}
    assert len(evicted(tmp_path)) > 100

    save_model(tmp_path / "model", "mixtral", num_local_experts=8, num_experts_per_tok=2, hidden_size=64)
    arguments = ["run", "model", "--prompt-ids", "1,2,3,4,5,6", "--max-new-tokens", "12", "--json"]
    plain = offload(*arguments, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(plain.stdout)
    budget = str(answer["tiers"]["device"]["capacity_bytes"] * 3 // 4)
    ran = offload(*arguments, "--policy", "theirs:Patient", "--device-memory", budget, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["token_ids"] == answer["token_ids"]
    assert any("ExpertKey" in line for line in evicted(tmp_path))


def test_it_decides_which_kv_blocks_leave(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(POLICY, encoding="utf-8")
    prompt = ",".join(str(1 + token % 500) for token in range(600))
    arguments = ["run", str(tiny_llama), "--prompt-ids", prompt, "--max-new-tokens", "6", "--json"]
    plain = offload(*arguments, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(plain.stdout)
    budget = str(int(1.1 * smallest_budget(tiny_llama, tmp_path / "scratch", prompt_tokens=600, new_tokens=6)))
    tight = ["--device-memory", budget, "--host-memory", "0", "--nvme-dir", "scratch"]
    ran = offload(*arguments, *tight, "--kv-policy", "theirs:Patient", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["token_ids"] == answer["token_ids"]
    assert any("KVBlockKey" in line for line in evicted(tmp_path))
