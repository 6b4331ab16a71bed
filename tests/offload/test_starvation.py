"""Devices that have no memory left for activations in the middle of a request: it goes on in smaller pieces, or ends.

Allocations fail in torch itself, where it would fail on a GPU or, in other words, on a processor.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.streamers import BaseStreamer

from offload.positions import Positions
from offload.starvation import StarvedError, smaller_pieces, starved
from tests.offload.test_device_apart import FAMILIES
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import TierError

PROMPT, NEW = 400, 6
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": 1}
INPUTS = make_inputs(PROMPT)

CUDA_SAYS = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which"
CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


class Scarce(TorchDispatchMode):
    """No new tensor of more than ``most_nbytes``; ``num_refused`` counts."""

    def __init__(self, most_nbytes: int, error: Callable[[], RuntimeError]) -> None:
        super().__init__()
        self.most_nbytes, self.error, self.num_refused = most_nbytes, error, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_new = isinstance(found, Tensor) and returns[0].alias_info is None
        if is_new and found.nbytes > self.most_nbytes:
            self.num_refused += 1
            raise self.error()
        return found


ERRORS = {"cuda": lambda: torch.OutOfMemoryError(CUDA_SAYS), "cpu": lambda: RuntimeError(CPU_SAYS)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(folder / name, name, **FAMILIES[name]) for name in ("llama", "mixtral")}


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest) -> Callable[[], RuntimeError]:
    found: Callable[[], RuntimeError] = ERRORS[request.param]
    return found


class Told(BaseStreamer):
    """Keeps what a generation tells; ``at`` is called with how often it has."""

    def __init__(self, at: Callable[[int], object] = lambda count: None) -> None:
        self.values: list[list[int]] = []
        self.at = at

    def put(self, value: Tensor) -> None:
        self.values.append(value.reshape(-1).tolist())
        self.at(len(self.values))

    def end(self) -> None:
        """Nothing to keep."""


def budget_of(path: Path, folder: Path, budget: str) -> dict[str, Any]:
    if budget == "all":
        return dict(WORKLOAD)
    least = smallest_budget(path, folder, **WORKLOAD)
    return {**WORKLOAD, "device_memory": int(least * 1.5), "nvme_dir": folder}


@pytest.mark.parametrize("budget", ["all", "little"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_prompt_goes_on_in_smaller_pieces(
    models: dict[str, Path], tmp_path: Path, family: str, budget: str, error: Callable[[], RuntimeError]
) -> None:
    """Down to what fits, with the same tokens and the prompt told once; the next one begins with such pieces."""
    path, told = models[family], Told()
    expected = generate(plain_model(path), INPUTS, NEW)
    with loaded(path, **budget_of(path, tmp_path / "nvme", budget)) as model:
        if budget == "little":
            model.runtime.prefill_chunk_tokens = 256  # more than the plan takes, so that there is something to halve
        with Scarce(130 * 96 * 4, error) as scarce:
            assert generate(model, INPUTS, NEW, streamer=told) == expected
        assert scarce.num_refused
        assert model.runtime.prefill_chunk_tokens in (64, 128)
        assert [len(values) for values in told.values] == [PROMPT, *[1] * NEW]
        assert generate(model, INPUTS, NEW) == expected


def test_pieces_never_grow(models: dict[str, Path], error: Callable[[], RuntimeError]) -> None:
    """A caller who asks for larger ones gets what fits, and later requests what the plan has."""
    path = models["llama"]
    expected = generate(plain_model(path), INPUTS, NEW)
    with loaded(path, **WORKLOAD) as model:
        model.runtime.prefill_chunk_tokens = 64
        with Scarce(130 * 96 * 4, error) as scarce:
            assert generate(model, INPUTS, NEW, prefill_chunk_size=256) == expected
        assert scarce.num_refused
        assert model.runtime.prefill_chunk_tokens == 64


def test_what_no_piece_is_small_enough_for_ends_that_request(
    models: dict[str, Path], tmp_path: Path, error: Callable[[], RuntimeError]
) -> None:
    """In one line; nothing of it is left, and the next one works."""
    path = models["llama"]
    expected = generate(plain_model(path), INPUTS, NEW)
    with loaded(path, **budget_of(path, tmp_path / "nvme", "little")) as model:
        chunk = model.runtime.prefill_chunk_tokens
        for _ in range(2):
            with Scarce(1000, error), pytest.raises(TierError, match="device: no memory for activations") as caught:
                generate(model, INPUTS, NEW)
            assert "\n" not in str(caught.value)
            assert str(caught.value).endswith("lower --device-memory")
            assert caught.value.__context__ is None, "or else it would keep what there was of the activations"
        model.runtime.prefill_chunk_tokens = chunk
        assert generate(model, INPUTS, NEW) == expected


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_an_answer_that_has_begun_does_not_begin_again(
    models: dict[str, Path], tmp_path: Path, family: str, error: Callable[[], RuntimeError]
) -> None:
    """Whoever reads along has seen its first tokens."""
    path = models[family]
    expected = generate(plain_model(path), INPUTS, NEW)
    scarce = Scarce(2**40, error)

    def starve(count: int) -> None:
        if count == 3:
            scarce.most_nbytes = 0

    told = Told(starve)
    with loaded(path, **budget_of(path, tmp_path / "nvme", "little")) as model:
        with scarce, pytest.raises(StarvedError):
            generate(model, INPUTS, NEW, streamer=told)
        assert [token for value in told.values[1:] for token in value] == expected[0][:2]
        assert generate(model, INPUTS, NEW) == expected


def test_a_conversation_keeps_what_it_had(models: dict[str, Path], error: Callable[[], RuntimeError]) -> None:
    """Of a cache of the caller's nothing is begun again: he is told, rolls back and goes on."""
    path = models["llama"]
    ids = INPUTS["input_ids"]
    expected = generate(plain_model(path), INPUTS, NEW)
    with loaded(path, **WORKLOAD) as model, model.new_cache() as cache:
        first = {"input_ids": ids[:, :200], "attention_mask": torch.ones_like(ids[:, :200])}
        generate(model, first, 1, past_key_values=cache)
        held = cache.get_seq_length()
        with Scarce(1000, error), pytest.raises(StarvedError):
            generate(model, INPUTS, NEW, past_key_values=cache)
        cache.crop(held)
        assert generate(model, INPUTS, NEW, past_key_values=cache) == expected


def test_other_errors_stay_what_they_are(models: dict[str, Path]) -> None:
    def broken() -> RuntimeError:
        return RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert starved(broken()) is None
    with (
        loaded(models["llama"], **WORKLOAD) as model,
        Scarce(1000, broken),
        pytest.raises(RuntimeError, match="cannot be multiplied"),
    ):
        generate(model, INPUTS, NEW)


CUDA_FAILED = "device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: torch.AcceleratorError(f"CUDA error: {CUDA_FAILED}"), "device-side assert triggered"),
        (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when"), "CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
    ids=["assertion", "library"],
)
def test_a_gpu_that_fails_is_one_line(models: dict[str, Path], error: Callable[[], RuntimeError], said: str) -> None:
    """And the way out: nothing that is done with it by this process would work."""
    with (
        loaded(models["llama"], **WORKLOAD) as model,
        Scarce(1000, error),
        pytest.raises(TierError, match=f"device: CUDA error: {said}.*; this process cannot use it any more") as caught,
    ):
        generate(model, INPUTS, NEW)
    assert not isinstance(caught.value, StarvedError)
    assert "\n" not in str(caught.value)


def test_pieces_are_halved_in_whole_blocks() -> None:
    same = Positions()
    assert [smaller_pieces(same, 400, 4, chunk, 64) for chunk in (None, 512, 400, 192, 128, 127, 64)] == [
        *(192, 192, 192, 64, 64, None, None)
    ]
    changing = Positions(longest=100, is_changing=True)
    assert smaller_pieces(changing, 400, 4, None, 64) is None, "its positions would be others"
    again = Positions(longest=300, begins_again=True)
    assert smaller_pieces(again, 250, 52, None, 64) is None, "it begins again with 301 tokens"
    assert smaller_pieces(again, 250, 51, None, 64) == 64


def test_a_processor_says_it_in_such_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert isinstance(starved(caught.value), StarvedError)
