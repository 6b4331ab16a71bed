"""What every policy owes that is told what is expected to be used."""

import pytest

from tests.contracts.eviction import CAPACITY, EvictionContract
from tiers.eviction.base import Expected

SURE = Expected(1.0, 1)


class ForecastingContract(EvictionContract):
    """Inherit instead of EvictionContract: without a forecast it is a policy like all others."""

    def test_keeps_what_will_be_needed(self) -> None:
        policy = self.filled(CAPACITY)
        keys = [0, 3, 5]
        policy.forecast(6, [(KeyOfLayer(7, 9), SURE)])
        for key in keys:
            policy.remove(key)
        ahead = [KeyOfLayer(7, i) for i in range(2)]
        policy.forecast(6, [(key, SURE) for key in ahead])
        for new in ahead:
            policy.insert_ahead(new)
        assert set(policy.evict(3)) == {1, 2, 4}
        assert set(policy.evict(2)) == set(ahead)

    def test_a_forecast_replaces_the_one_before(self) -> None:
        policy, fresh = self.filled(CAPACITY), self.filled(CAPACITY)
        policy.forecast(0, [(key, SURE) for key in range(3)])
        policy.forecast(0, [])
        assert policy.evict(CAPACITY) == fresh.evict(CAPACITY)

    def test_what_came_ahead_is_resident(self) -> None:
        policy = self.make(2)
        policy.insert_ahead(1)
        assert 1 in policy
        with pytest.raises(KeyError):
            policy.insert_ahead(1)
        policy.touch(1)
        policy.insert(2)
        policy.remove(1)
        assert policy.evict(1) == [2]


class KeyOfLayer(tuple[int, int]):
    """A key that knows its layer."""

    __slots__ = ()

    def __new__(cls, layer: int, index: int) -> "KeyOfLayer":
        return super().__new__(cls, (layer, index))

    @property
    def layer(self) -> int:
        return self[0]
