"""A step over places on the device, with the very kernel that graphs on a GPU are made of, run by its interpreter."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.interpreted import needs_interpreter, run_interpreted
from tests.offload.graphs.kit import record_steps
from tests.offload.graphs.recorder import RecordedGraphs
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model
from tiers.proven import Proven


@dataclass
class Again:
    """Not recorded, since what an interpreted kernel does nobody sees, but called each time."""

    step: Callable[[], Tensor]
    output: Tensor

    def replay(self) -> None:
        with torch.inference_mode():
            self.output = self.step()


class Called(RecordedGraphs):
    def capture(self, step: Callable[[], Tensor]) -> Again:  # type: ignore[override]
        return Again(step, step())


def check_all() -> None:
    from offload.attention.paged_kernel import attend_pieces

    inputs = make_inputs(60, (0, 17))
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(Path(folder), "llama", num_hidden_layers=2)
        with loaded(path, prompt_tokens=60, new_tokens=8, batch=2) as model:
            model.runtime.kv.rows.fill_(torch.nan)
            graphs = record_steps(model, Called(), kernel_for=lambda *_: Proven(attend_pieces))
            assert generate(model, inputs) == generate(plain_model(path), inputs)
            assert graphs.num_replays == 6, graphs.notes


@needs_interpreter
def test_tokens_by_the_kernel() -> None:
    run_interpreted(__name__)
