"""The stand-in for CUDA graphs is as strict as they are: or else what it proves would not hold on a GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from offload.graphs.questions import NoQuestions
from tests.offload.graphs.recorder import RecordedGraphs


def test_what_lies_in_memory_is_read_again_and_what_the_host_knew_is_not() -> None:
    numbers, length = torch.arange(6.0), torch.tensor([2])
    known = 2

    def step() -> Tensor:
        by_device = torch.where(torch.arange(6) < length, numbers, 0.0).sum()
        return torch.stack([by_device, numbers[:known].sum()])

    graph = RecordedGraphs().capture(step)
    numbers += 10
    length += 1
    known = 3
    graph.replay()
    assert graph.output.tolist() == [33, 21]


def test_writes_are_done_again() -> None:
    arena, place, value = torch.zeros(4, 2), torch.tensor([1]), torch.ones(1, 2)

    def step() -> Tensor:
        arena.index_copy_(0, place, value)
        arena[3:] += 1
        return arena.sum(1).view(2, 2).clone()

    graph = RecordedGraphs().capture(step)
    arena.zero_()
    place.fill_(2)
    graph.replay()
    graph.replay()
    assert graph.output.flatten().tolist() == [0, 0, 2, 4]


def test_memory_that_nobody_filled_is_no_number() -> None:
    graph = RecordedGraphs().capture(lambda: torch.empty(3) * 0)
    graph.replay()
    assert graph.output.isnan().all()


def test_memory_of_others_has_to_be_kept_by_them() -> None:
    kept = {"numbers": torch.ones(2)}
    graph = RecordedGraphs().capture(lambda: kept["numbers"] + 1)
    graph.replay()
    kept.clear()
    with pytest.raises(AssertionError, match="reads memory that was given back"):
        graph.replay()


QUESTIONS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda numbers: numbers[0].item(),
    "truth": lambda numbers: bool((numbers > 0).all()),
    "a comparison": lambda numbers: torch.equal(numbers, numbers + 1),
    "nonzero": lambda numbers: numbers.nonzero(),
    "unique": lambda numbers: numbers.unique(),
    "a mask": lambda numbers: numbers[numbers > 0],
    "a masked choice": lambda numbers: numbers.masked_select(numbers > 0),
    "numbers of Python": lambda numbers: numbers + torch.tensor([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("question", [*QUESTIONS, "a list", "an array"])
def test_questions_are_refused(question: str) -> None:
    ask = QUESTIONS.get(question, Tensor.tolist if question == "a list" else Tensor.numpy)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="waits for the device"):
        RecordedGraphs().capture(lambda: (ask(numbers := torch.arange(3.0)), numbers)[1])


@pytest.mark.parametrize("question", QUESTIONS)
def test_they_are_found_before_a_capture_on_a_gpu(question: str) -> None:
    """All but what reads a processor's memory past all operators."""
    with pytest.raises(RuntimeError, match="waits for the device"), NoQuestions(torch.device("cpu")):
        QUESTIONS[question](torch.arange(3.0))


def test_copies_to_other_devices_are_found() -> None:
    """On torch's device without memory, in place of a GPU."""
    number, numbers = torch.tensor(2.0), torch.arange(3.0)
    with NoQuestions(torch.device("meta")):
        assert (torch.ones(3, device="meta") * number).shape == (3,)  # is handed over with the launch
        for wrong in (numbers, number):
            with pytest.raises(RuntimeError, match="waits for the device"):
                wrong.to("meta")
