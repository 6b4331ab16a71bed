import pytest

from tiers.errors import InvalidOptionError
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.base import EvictionPolicy
from tiers.eviction.registry import POLICIES, make_policy


@pytest.mark.parametrize("name", POLICIES)
def test_makes_what_the_table_names(name: str) -> None:
    policy: EvictionPolicy[str] = make_policy(name, 8)
    assert type(policy) is POLICIES[name]
    assert policy.capacity == 8


def test_names_what_may_be_chosen() -> None:
    with pytest.raises(InvalidOptionError) as error:
        make_policy("belady", 8)
    assert str(error.value) == (
        "eviction policy 'belady' is unknown; choose one of "
        "activation_ratio, arc, batch_plan, cost_aware, expected_use, fifo, gdsf, lfu, lirs, lru, mru, next_use, "
        "per_layer_lru, plec, prefix_depth, s3fifo, shallow_arc, sieve, spaced, two_queue, w_tinylfu, weighted, "
        "or write my_module:MyPolicy"
    )


def test_names_the_nearest() -> None:
    with pytest.raises(InvalidOptionError, match=r"'s3-fifo' is unknown; did you mean 's3fifo'. Others are"):
        make_policy("s3-fifo", 8)


def test_the_seam_stays_small() -> None:
    """A new need gets a protocol of its own, not one more method on every policy."""
    assert len(EvictionPolicy.__abstractmethods__) <= 7
    assert not [name for name in vars(ARCPolicy) if not name.startswith("_") and not hasattr(EvictionPolicy, name)]
