"""Makes the predictor of experts that a configuration names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from prefetch.activation_matrix import ActivationMatrixPredictor
from prefetch.expert_predictor import ExpertPredictor
from prefetch.next_gate import Matrix, NextGatePredictor
from prefetch.path import PathPredictor
from prefetch.popularity import PopularityPredictor
from prefetch.routing_path import RoutingPath
from prefetch.third_party import SupervisedPredictor, is_third_party
from tiers.block import ExpertKey

Keys = Sequence[Sequence[ExpertKey]]
"""By layer, the keys of its experts; empty for a layer without experts."""


def make_predictor(
    name: str, keys: Keys, top_k: int, gates: Callable[[], Mapping[int, Matrix]], fingerprint: Callable[[], str]
) -> ExpertPredictor | None:
    """One of ``offload.config_values.PREDICTORS``, the file of a trained one, or ``my_module:MyPredictor``.

    A token visits ``top_k`` experts of a layer. ``gates`` gives the weights [experts, hidden] of the layers' gates,
    nothing where they are not known, ``fingerprint`` that of the model. None where nothing is to be predicted, and for
    "next_gate" without gates. Raises ModelError for a file that is damaged or was trained for another model, and
    InvalidOptionError and PolicyError for what is no predictor.
    """
    if is_third_party(name):
        return SupervisedPredictor(name, keys, top_k, gates)
    match name:
        case "none":
            return None
        case "popularity":
            return PopularityPredictor(keys, top_k)
        case "activation_matrix":
            return ActivationMatrixPredictor(keys, 2 * top_k)
        case "next_gate":
            known, empty = gates(), np.empty((0, 0), np.float32)
            return NextGatePredictor([known.get(i, empty) for i in range(len(keys))], keys, top_k) if known else None
        case _:
            return PathPredictor(keys, RoutingPath.load(Path(name), fingerprint()).begin)
