"""Every predictor and policy that can be named for a run: the tokens stay those of the plain model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.config import RunConfig
from offload.config_values import PREDICTORS
from offload.predictor_training.command import train_from_files
from offload.predictor_training.network import Shape
from offload.predictor_training.train import Course as Training
from offload.traces.record import Course, record_trace
from tests.offload.zoo import VOCABULARY, generate, loaded, make_inputs, plain_model, save_model
from tiers.errors import ModelError
from tiers.eviction.registry import POLICIES

WORKLOAD: dict[str, Any] = {"prompt_tokens": 20, "new_tokens": 8, "batch": 1}
SHAPE: dict[str, Any] = {"num_local_experts": 6, "num_experts_per_tok": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("moe"), "mixtral", **SHAPE)


@pytest.fixture(scope="module")
def budget(model: Path) -> int:
    """Room for 9 of the 24 experts."""
    with loaded(model, **WORKLOAD) as offloaded:
        plan = offloaded.plan
        return plan.device_bytes_used - (plan.expert_slots - 9) * plan.expert_slot_nbytes


@pytest.fixture(scope="module")
def expected(model: Path) -> Any:
    return generate(plain_model(model), make_inputs(20), 8)


def check(model: Path, budget: int, nvme: Path, expected: Any, **options: Any) -> None:
    with loaded(model, device_memory=budget, nvme_dir=nvme, **WORKLOAD, **options) as offloaded:
        experts = offloaded.runtime.experts
        assert experts is not None
        assert experts.pool.num_slots == 9
        assert (experts.predictor is None) == (options.get("predictor") == "none")
        assert generate(offloaded, make_inputs(20), 8) == expected
        experts.manager.check()


@pytest.mark.parametrize("policy", POLICIES)
def test_policies(policy: str, model: Path, budget: int, expected: Any, tmp_path: Path) -> None:
    check(model, budget, tmp_path, expected, policy=policy)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_predictors(predictor: str, model: Path, budget: int, expected: Any, tmp_path: Path) -> None:
    check(model, budget, tmp_path, expected, predictor=predictor)


def test_a_trained_predictor(model: Path, budget: int, expected: Any, tmp_path: Path) -> None:
    tokens: list[int] = np.random.default_rng(1).integers(3, VOCABULARY, 120).tolist()
    recorded, file = tmp_path / "trace.npz", tmp_path / "paths.npz"
    record_trace(RunConfig(), model, tokens, Course(2, 40, 20, forced=True)).save(recorded)
    train_from_files([recorded], file, Training(Shape.of("routing-path"), steps=4))
    check(model, budget, tmp_path, expected, predictor=file)
    other = save_model(tmp_path / "other", "mixtral", hidden_size=32, **SHAPE)
    with pytest.raises(ModelError, match=r"paths.npz: was trained for another model"), loaded(other, predictor=file):
        raise AssertionError("was loaded")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError, match=r"paths.npz"), loaded(model, predictor=file):
        raise AssertionError("was loaded")
