"""The matrices of a loaded model, multiplied by one token in the order of a pass, and nothing else."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from offload.experts.bind import expert_keys
from offload.experts.codecs.base import Matrix
from offload.experts.codecs.stored import StoredMatrix
from offload.linear import linear
from offload.offloaded_model import OffloadedModel
from offload.weights.vocabulary import TieredHead
from prefetch.expert_predictor import Routing

Product = tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]
"""A kernel, a token [1, inputs] and a matrix [outputs, inputs]."""

_Visits = dict[int, Sequence[int]]
"""By layer, the experts that a token visits."""


class OwnProducts:
    """Of a model all of whose weights stay. ``generate`` is a generation, whose decode steps are what is done again:
    the same experts in the same order, so that caches hold of them what they hold in a run.

    The matrices are those that ``offload.matrices.matrices_of`` counts.
    """

    def __init__(self, model: OffloadedModel, generate: Callable[[], object]) -> None:
        layers: dict[int, list[Product]] = {}
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and parameter.numel():
                layers.setdefault(_layer_of(name), []).append(_product(functional.linear, parameter.detach()))
        head = next(module for module in model.modules() if isinstance(module, TieredHead))
        experts, visits = _experts(model), _visits(model, generate)
        self.steps: list[list[Product]] = []
        """Of each decode step its products, in their order."""
        for visited in visits:
            step: list[Product] = []
            for layer in sorted(layers):
                step += layers[layer]
                step += [product for expert in visited.get(layer, ()) for product in experts[layer][expert]]
            self.steps.append(step + [_product(linear, rows) for rows in head.resident_rows])
        slow = [m.nbytes for how, _, m in self.steps[0] if how is functional.linear or m.dtype is not torch.bfloat16]
        self.module_share = sum(slow) / max(1, sum(matrix.nbytes for _, _, matrix in self.steps[0]))
        """By bytes, of what is multiplied by the kernel of modules; in bfloat16 the head and experts have another."""

    def seconds(self) -> float:
        """Of a step; the one in the middle."""
        return statistics.median(self._times())

    def _times(self) -> Iterator[float]:
        with torch.inference_mode():
            for step in self.steps:
                start = time.perf_counter()
                for multiply, token, matrix in step:
                    multiply(token, matrix)
                yield time.perf_counter() - start


class _Recorder:
    """Keeps what the tokens that come alone have chosen, pass by pass."""

    def __init__(self) -> None:
        self.passes: list[_Visits] = []

    def observe(self, routing: Routing) -> None:
        if len(routing.experts) == 1:
            if not self.passes or routing.layer in self.passes[-1]:
                self.passes.append({})
            self.passes[-1][routing.layer] = routing.experts[0].tolist()


def _visits(model: OffloadedModel, generate: Callable[[], object]) -> list[_Visits]:
    store = model.runtime.experts
    if store is None:
        generate()
        return [{}] * 5
    recorder = _Recorder()
    store.observers.append(recorder)
    try:
        generate()
    finally:
        store.observers.remove(recorder)
    return recorder.passes


def _experts(model: OffloadedModel) -> dict[int, list[list[Product]]]:
    """By layer and number; only of a model in which they stay."""
    store = model.runtime.experts
    if store is None:
        return {}
    layers: dict[int, list[list[Product]]] = {}
    for layer, keys in enumerate(expert_keys(model)):
        # What stays is where it is also after the visit.
        for group in store.visit(keys):
            layers.setdefault(layer, []).extend([_stored(matrix) for matrix in (*w.up, w.down)] for _, w in group)
    return layers


def _product(multiply: Callable[[Tensor, Tensor], Tensor], matrix: Tensor) -> Product:
    return multiply, torch.full((1, matrix.shape[1]), 0.01, dtype=matrix.dtype), matrix


def _stored(matrix: Matrix) -> Product:
    assert isinstance(matrix, StoredMatrix), "experts of the precision that they were stored in"
    return _product(lambda token, _: matrix.multiply(token), matrix.weight)


def _layer_of(name: str) -> int:
    """The first number in the name of a parameter; of one that belongs to no layer -1."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)
