"""From the setting to graphs: what a plan sets aside, and which models are in no way done by them."""

from pathlib import Path
from typing import Any

import pytest

from offload.bench.generation import with_tiers
from offload.config import RunConfig
from offload.graphs.backend import SET_ASIDE_NBYTES
from offload.offloaded_model import OffloadedModel
from offload.plan import Workload
from tests.offload.graphs.recorder import RecordedGraphs, plain_pieces
from tests.offload.test_families import FAMILIES
from tests.offload.zoo import generate, make_inputs, plain_model, save_model, smallest_budget
from tiers.proven import Proven

WORKLOAD = Workload(1, 300, 8)


def pretend(monkeypatch: pytest.MonkeyPatch, **budget: Any) -> RunConfig:
    """The processor as a device that has graphs."""
    monkeypatch.setattr("offload.loader.CudaGraphs", lambda device: RecordedGraphs())
    config = RunConfig(device="cpu", **budget)
    object.__setattr__(config, "cuda_graphs", True)
    return config


def notes_of(path: Path, config: RunConfig) -> list[str]:
    """Of a generation whose tokens are right."""

    def use(model: OffloadedModel) -> list[str]:
        assert generate(model, make_inputs(300)) == generate(plain_model(path), make_inputs(300))
        return [note for note in model.runtime.notes if note.startswith("CUDA graphs")]

    return with_tiers(path, config, WORKLOAD, use)[0]


def test_the_setting_and_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(tmp_path, "llama")

    def use(model: OffloadedModel) -> int:
        if graphs := model.runtime.graphs:
            graphs._kernel_for = lambda *_: Proven(plain_pieces)
            generate(model, make_inputs(300))
        return graphs.num_replays if graphs else 0

    replays, plan = with_tiers(path, pretend(monkeypatch), WORKLOAD, use)
    without, plain = with_tiers(path, RunConfig(), WORKLOAD, use)
    assert (replays, without) == (6, 0)
    assert plan.workspace_bytes == plain.workspace_bytes + SET_ASIDE_NBYTES
    assert plan.device_bytes_used == plain.device_bytes_used + SET_ASIDE_NBYTES


def test_what_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = save_model(tmp_path / "model", "llama"), tmp_path / "nvme"
    least = smallest_budget(path, folder, prompt_tokens=300, new_tokens=8)
    streamed = pretend(monkeypatch, device_memory=least + SET_ASIDE_NBYTES, nvme_dir=folder)
    assert notes_of(path, streamed) == ["CUDA graphs: not all weights stay on the device"]
    drives = pretend(monkeypatch, csd=1, nvme_dir=folder)
    assert notes_of(path, drives) == ["CUDA graphs: not all of the KV cache stays on the device"]


OTHERS = {
    "gpt_oss": "the experts of a step are found while it goes on",
    "minicpm3, latents": "its attention meets latents",
    "mistral": "it has sliding windows",
}


@pytest.mark.parametrize("family", OTHERS)
def test_what_is_no_plain_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    kind, changes = FAMILIES[family]
    path = save_model(tmp_path, kind, **changes)
    assert notes_of(path, pretend(monkeypatch)) == [f"CUDA graphs: {OTHERS[family]}"]


def test_attention_without_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = notes_of(save_model(tmp_path, "llama"), pretend(monkeypatch))
    assert note.endswith("(ModelError: attention has no kernel for such heads)")
