"""A model that decodes with its KV cache in an emulated drive: bytes on the link, flash pages, modelled time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import BoolTensor, Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from offload.bench.generation import generate_timed, with_tiers
from offload.config import RunConfig
from offload.kv.drives import KVDrives
from offload.offloaded_model import OffloadedModel
from offload.plan import Workload
from offload.simulation.drive_speed import timing_of
from offload.texts import help_tokens
from simulators.flash.drive import DriveParameters

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """How to attend, which share of the pages is enough, and how many tokens wait in the host for a write."""

    attention: str
    compression: float | None = None
    write_back: int = 0

    @property
    def name(self) -> str:
        share = "" if self.compression is None else f" at {self.compression:.3g}"
        return f"{self.attention}{share}" + (f", {self.write_back} tokens a write" if self.write_back else "")


WAYS = (
    Way("in-storage"),
    Way("in-storage-sparse", 1 / 4),
    Way("in-storage-sparse", 1 / 8),
    Way("in-storage-sparf", 1 / 8),
    Way("in-storage", write_back=32),
)


@dataclass(frozen=True, slots=True)
class RunSizes:
    """``prompt`` tokens of a real text, then ``steps`` decoded greedily."""

    prompt: int = 2048
    steps: int = 32


@dataclass(frozen=True, slots=True)
class _Count:
    """What the drive had done by then."""

    pages: int
    link_nbytes: int

    @classmethod
    def of(cls, model: OffloadedModel) -> "_Count":
        drives = model.runtime.drives
        assert drives is not None, "this benchmark runs on drives"
        drives.finish_writes()  # of the last tokens, which nobody has waited for
        return cls(drives.pages_read, drives.link_nbytes)


class _Modelled(StoppingCriteria):
    """Stops nothing: notes after each token what real drives would have taken so far."""

    def __init__(self, drives: KVDrives) -> None:
        self._drives = drives
        self._seconds: list[float] = []

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> BoolTensor:
        self._seconds.append(self._drives.modelled_s)
        return cast("BoolTensor", torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device))

    @property
    def step_s(self) -> float:
        """Of a decode step, the mean.

        The first is left out: drives may have to finish then what came before, programs of the prompt and erases of
        earlier sequences, and how much of that is left depends on what else this machine does.
        """
        return (self._seconds[-1] - self._seconds[1]) / (len(self._seconds) - 2)


def run_rows(model: Path, nvme_dir: Path, drive: DriveParameters, sizes: RunSizes | None = None) -> Iterator[Row]:
    """One row for each of ``WAYS``: tokens per second of the emulation here beside those of the model without a drive.

    ``link_bytes`` per token and what q, k, v and the output of all layers take by themselves (``link_bytes_least``),
    ``pages`` read of the flash per token, ``modelled_ms`` that ``drive`` would take for a token's attention,
    ``attention_error`` as a run measures it, and whether the tokens are the same.
    """
    sizes = sizes or RunSizes()
    prompt = help_tokens(model, sizes.prompt)
    workload = Workload(1, len(prompt), sizes.steps + 2)
    plain, _ = with_tiers(model, RunConfig(), workload, lambda loaded: generate_timed(loaded, prompt, sizes.steps + 2))
    for way in WAYS:
        settings = {name: value for name, value in asdict(way).items() if value is not None}
        config = RunConfig(csd=1, nvme_dir=nvme_dir, **settings)

        def use(loaded: OffloadedModel) -> Row:
            drives = loaded.runtime.drives
            assert drives is not None, "this benchmark runs on drives"
            generate_timed(loaded, prompt, sizes.steps + 2)
            drives.measures_loss = False
            counts, timed, modelled = [], plain, _Modelled(drives)
            for new in (2, sizes.steps + 2):
                before, modelled = _Count.of(loaded), _Modelled(drives)
                timed = generate_timed(loaded, prompt, new, stopping_criteria=StoppingCriteriaList([modelled]))
                counts.append((before, _Count.of(loaded)))
            rate = 1 / timed.step_s
            return {
                "unit": "tokens/s",
                "ours": rate,
                "peer": 1 / plain.step_s,
                "peer_name": "KV cache on the device",
                "ratio_to_peer": rate * plain.step_s,
                "link_bytes": _per_token("link_nbytes", counts, sizes.steps),
                "link_bytes_least": _least_bytes(loaded),
                "pages": _per_token("pages", counts, sizes.steps),
                "modelled_ms": 1e3 * modelled.step_s,
                "attention_error": drives.attention_error,
                "same_tokens": timed.tokens == plain.tokens,
            }

        row, _ = with_tiers(model, config, workload, use, drive_timing=timing_of(drive))
        yield {"name": f"{way.name}, {sizes.prompt} tokens", **row}


def _per_token(name: str, counts: list[tuple[_Count, _Count]], steps: int) -> float:
    """What a longer generation took more than a short one."""
    short, long = (getattr(after, name) - getattr(before, name) for before, after in counts)
    return float((long - short) / steps)


def _least_bytes(model: OffloadedModel) -> int:
    """Query, output, key and value of one token in all layers, in the type of the model."""
    layout, config = model.runtime.kv.layout, model.config
    heads = 2 * config.num_attention_heads + 2 * layout.num_kv_heads
    return int(config.num_hidden_layers * heads * layout.key_dim * model.dtype.itemsize)
