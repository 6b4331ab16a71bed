"""The matrices that a plan and the simulator count are those that the kernels are given."""

from pathlib import Path
from typing import Any

import pytest

from offload.bench.generation import generate_timed
from offload.matrices import matrices_of
from offload.prospect import open_prospect
from offload.speed.own_products import OwnProducts
from tests.offload.zoo import loaded, save_model

TOP_K = 2


@pytest.mark.parametrize(("family", "config"), [("llama", {}), ("qwen3_moe", {"num_experts_per_tok": TOP_K})])
def test_a_step_multiplies_by_the_matrices_that_are_counted(
    family: str, config: dict[str, Any], tmp_path: Path
) -> None:
    path = save_model(tmp_path, family, eos_token_id=None, **config)
    prospect = open_prospect(path)
    groups, sizes = prospect.source.groups, prospect.sizes
    prospect.source.close()
    with loaded(path) as model:
        own = OwnProducts(model, lambda: generate_timed(model, [1, 2, 3], 4))
        assert own.seconds() > 0
        found = sorted(matrix.nbytes for _, _, matrix in own.steps[0])
    dense = [nbytes for group in groups if group.kind in ("layer", "head") for nbytes in matrices_of(group)]
    routed = sizes.num_sparse_layers * TOP_K * list(sizes.expert_matrices)
    assert sum(found) == sum(dense) + sum(routed)
    assert sum(nbytes * count for nbytes, count in sizes.layer_matrices) == sum(
        nbytes for group in groups if group.kind == "layer" for nbytes in matrices_of(group)
    )
    # Gate and up of an expert are one product where they lie side by side.
    assert len(sizes.expert_matrices) in ((2, 3) if routed else (0,))
