"""Models whose decode steps are done by graphs: recorded ones on the processor, those of CUDA on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offload.graphs.graphs import StepGraphs
from offload.offloaded_model import OffloadedModel
from tests.offload.graphs.recorder import RecordedGraphs, plain_pieces
from tests.offload.zoo import loaded
from tiers.proven import Proven


def record_steps(model: OffloadedModel, backend: RecordedGraphs | None = None, **options: Any) -> StepGraphs:
    """From now on, with attention that needs no GPU."""
    chosen = {"kernel_for": lambda *_: Proven(plain_pieces)} | options
    model.runtime.graphs = StepGraphs(model, backend or RecordedGraphs(), **chosen)
    return model.runtime.graphs


@contextmanager
def graphed(path: Path, device: str, **workload: Any) -> Iterator[tuple[OffloadedModel, StepGraphs]]:
    """A model, all of it on the device; what is in its arena before tokens are is no number."""
    options = {} if device == "cpu" else {"device": device, "cuda_graphs": True}
    with loaded(path, **workload, **options) as model:
        graphs = record_steps(model) if device == "cpu" else model.runtime.graphs
        assert graphs is not None
        model.runtime.kv.rows.fill_(torch.nan)
        yield model, graphs


def on(device: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}
