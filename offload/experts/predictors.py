"""Makes the predictor of experts that a configuration names."""

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from offload.checkpoint.source import model_fingerprint
from offload.experts.bind import experts_modules, gate_weights
from prefetch.activation_matrix import ActivationMatrixPredictor
from prefetch.expert_predictor import ExpertPredictor
from prefetch.next_gate import NextGatePredictor
from prefetch.path import PathPredictor
from prefetch.popularity import PopularityPredictor
from prefetch.routing_path import RoutingPath
from tiers.block import ExpertKey


def make_predictor(name: str, model: PreTrainedModel, path: Path, top_k: int) -> ExpertPredictor | None:
    """One of ``offload.config.PREDICTORS``, or the file of a trained one, for ``model``, whose checkpoint is ``path``.

    A token visits ``top_k`` experts of a layer. None where nothing is to be predicted, and for "next_gate" where a gate
    is not on the device. Raises ModelError for a file that is damaged or was trained for another model.
    """
    keys = _keys(model)
    match name:
        case "none":
            return None
        case "popularity":
            return PopularityPredictor(keys, top_k)
        case "activation_matrix":
            return ActivationMatrixPredictor(keys, 2 * top_k)
        case "next_gate":
            gates = gate_weights(model)
            empty = np.empty((0, 0), np.float32)
            return NextGatePredictor([gates.get(i, empty) for i in range(len(keys))], keys, top_k) if gates else None
        case _:
            return PathPredictor(keys, RoutingPath.load(Path(name), model_fingerprint(path)).begin)


def _keys(model: PreTrainedModel) -> list[list[ExpertKey]]:
    """By layer, the keys of its experts; empty for a layer without experts."""
    modules = experts_modules(model)
    return [list(modules[i][1].tiered_experts.keys) if i in modules else [] for i in range(max(modules) + 1)]
