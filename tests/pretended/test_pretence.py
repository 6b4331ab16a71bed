"""The pretended device refuses what a real one refuses and notices what is not ordered; tests of a GPU pass on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pretended import memory, streams
from tests.pretended.tensors import DeviceTensor, Pretence

_ROOT = Path(__file__).parents[2]


def test_is_on_the_device() -> None:
    with Pretence():
        zeros = torch.zeros(3, 4, device="cuda")
        there = torch.arange(4.0).to(zeros.device)
        for made in (zeros, there, zeros[1:], zeros + there, torch.zeros_like(zeros), zeros.new_empty(2)):
            assert isinstance(made, DeviceTensor)
            assert (made.device, made.is_cuda) == (torch.device("cuda:0"), True)
        zeros[1].add_(there)
        assert zeros.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 0]]
        assert not zeros.cpu().is_cuda


def test_refuses_what_a_device_refuses() -> None:
    with Pretence():
        there = torch.zeros(4, device="cuda")
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            _ = there + torch.ones(4)
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            there.numpy()
        assert (there + torch.tensor(2.0)).tolist() == [2.0] * 4
        assert there[torch.tensor([1, 2])].shape == (2,)


def test_notices_copies_that_have_to_be_waited_for() -> None:
    with Pretence():
        there = torch.zeros(4, device="cuda")
        there.copy_(torch.ones(4).pin_memory(), non_blocking=True)
        there.copy_(torch.ones(4))
        assert not memory.slow_copies
        there.copy_(torch.ones(4), non_blocking=True)
        assert len(memory.slow_copies) == 1
    memory.slow_copies.clear()


@pytest.mark.parametrize("order", ["none", "an event", "the host", "one stream"])
def test_notices_what_is_not_ordered(order: str) -> None:
    """A slot that is filled anew while it may still be read."""
    with Pretence():
        arena = torch.zeros(8192, dtype=torch.uint8, device="cuda")
        compute, copies, event = streams.Stream(), streams.Stream(), streams.Event()
        with streams.on_stream(compute):
            arena[:4096].sum()
            event.record()
        if order == "an event":
            copies.wait_event(event)
        elif order == "the host":
            event.synchronize()
        with streams.on_stream(compute if order == "one stream" else copies):
            arena[4096:].fill_(1)
            assert not streams.races, "another slot"
            arena[2048:6144].fill_(1)
    assert bool(streams.races) == (order == "none")
    streams.races.clear()


def test_some_that_need_a_gpu() -> None:
    """In a process of its own, whose torch then has CUDA everywhere: those that copy, and a model out of every tier."""
    apart = "tests/offload/test_device_apart.py::"
    _run(
        "tests/tiers/test_cuda_streams.py",
        "tests/tiers/test_staged_link.py",
        "tests/tiers/test_pinned_tier.py",
        "tests/offload/test_copies.py",
        "tests/offload/experts/packed/test_check.py",
        f"{apart}test_tokens_are_those_of_the_plain_model[cuda-mixtral-the rest in the host]",
        f"{apart}test_arenas_take_what_the_plan_says",
    )


def _run(*tests: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.pretended.plugin", "-m", "gpu", "-q", "--tb=short"]
    ran = subprocess.run([*command, *tests], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
