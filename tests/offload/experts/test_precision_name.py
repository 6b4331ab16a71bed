"""What may be asked of experts: a run and a pack take the same words."""

import pytest

from offload.config import RunConfig
from offload.experts.codecs.registry import CODECS
from offload.experts.precision import Precisions
from offload.experts.precision_name import CHOICES, COLD, ORDER, parse_precision
from tiers.errors import InvalidOptionError

NAMES = [*ORDER, COLD, "auto", "int1", "", "+", "int8+", "int8+int4+int2"]


def test_every_codec_has_its_name() -> None:
    assert ("stored", *CODECS) == ORDER


@pytest.mark.parametrize("high", NAMES)
@pytest.mark.parametrize("low", NAMES)
def test_a_run_takes_the_pairs_that_can_be_packed(high: str, low: str) -> None:
    name = f"{high}+{low}"
    if high in ORDER and low in ORDER[ORDER.index(high) + 1 :]:
        assert RunConfig(experts=name).experts == name
        assert parse_precision(name) == (high, low)
        assert Precisions.parse(name, None).low == low
        return
    for refuse in (lambda: RunConfig(experts=name), lambda: Precisions.parse(name, None)):
        with pytest.raises(InvalidOptionError, match="not a precision and a lower one; write two of stored, int8"):
            refuse()


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_takes_the_single_ones(name: str) -> None:
    assert RunConfig(experts=name).experts == name
    assert parse_precision(name) == (name, None)


@pytest.mark.parametrize("name", ["int2", "int1", ""])
def test_single_ones_that_cannot_be_packed(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"experts: '{name}' is no precision of experts; write one of auto"):
        RunConfig(experts=name)
    with pytest.raises(InvalidOptionError, match=f"--experts {name}: unknown; choose one of int8"):
        Precisions.parse(name, None)
