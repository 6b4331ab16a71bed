"""The seam itself."""

from hypothesis import given
from hypothesis import strategies as st

from tiers.tier import ALIGNMENT, Tier, align_down, align_up


@given(nbytes=st.integers(0, 2**50), alignment=st.sampled_from([1, 3, 512, ALIGNMENT]))
def test_alignment(nbytes: int, alignment: int) -> None:
    up, down = align_up(nbytes, alignment), align_down(nbytes, alignment)
    assert down <= nbytes <= up
    assert up % alignment == down % alignment == 0
    assert up - down == (0 if nbytes % alignment == 0 else alignment)


def test_the_seam_stays_small() -> None:
    """A new need gets a Protocol or a wrapper of its own, not one more method here."""
    assert {name for name in vars(Tier) if not name.startswith("_")} == {"read", "write", "close"}
