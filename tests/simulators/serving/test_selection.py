"""Picked tokens and channels: as many as asked for, clustered as asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulators.serving.selection import ClusteredSelection
from tiers.errors import InvalidOptionError


def _tokens(selection: ClusteredSelection, jobs: int, tokens: int) -> NDArray[np.bool_]:
    starts, ends = selection.runs(jobs, tokens)
    picked = np.zeros((jobs, tokens), bool)
    for job in range(jobs):
        for start, end in zip(starts[job], ends[job], strict=True):
            assert not picked[job, start:end].any()
            picked[job, start:end] = True
    return picked


@settings(max_examples=50, deadline=None)
@given(tokens=st.integers(1, 300), share=st.floats(0.01, 1.0), mean_run=st.floats(1.0, 40.0), seed=st.integers(0, 100))
def test_every_head_picks_as_many_tokens_and_their_groups_are_hit(
    tokens: int, share: float, mean_run: float, seed: int
) -> None:
    selection = ClusteredSelection(token_share=share, mean_run=mean_run, seed=seed)
    picked = _tokens(selection, 3, tokens)
    assert (picked.sum(axis=1) == selection.num_tokens(tokens)).all()
    padded = np.pad(picked, ((0, 0), (0, -tokens % 16)))
    assert np.array_equal(selection.groups(3, tokens, 16), padded.reshape(3, -1, 16).any(axis=2))


@pytest.mark.parametrize(("mean_run", "share"), [(4, 0.472), (8, 0.333), (16, 0.239), (32, 0.196)])
def test_groups_hit_by_run_length(mean_run: int, share: float) -> None:
    """Against an independent draw at 2,048 tokens and a share of 1/8, in which runs could touch."""
    groups = ClusteredSelection(mean_run=mean_run).groups(400, 2048, 16)
    assert groups.mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("channels_per_page", "share"), [(2, 0.235), (4, 0.418), (8, 0.667)])
def test_channel_pages_hit(channels_per_page: int, share: float) -> None:
    pages = ClusteredSelection().channel_pages(2000, 128, channels_per_page)
    assert pages.mean() == pytest.approx(share, abs=0.01)
    assert (pages.sum(axis=1) * channels_per_page >= 16).all()


def test_the_clustering_of_recorded_picks() -> None:
    drawn = ClusteredSelection(mean_run=5.0, token_share=0.125)
    found = ClusteredSelection.like(_tokens(drawn, 50, 1024), channels=16)
    assert found.token_share == pytest.approx(0.125)
    assert found.mean_run == pytest.approx(5.0, rel=0.03)
    with pytest.raises(InvalidOptionError, match="no token was picked"):
        ClusteredSelection.like(np.zeros((2, 8), bool), 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 0}, "0 channels cannot be picked"),
        ({"token_share": 0.0}, "the share of tokens is 0.0; it has to be above 0 and at most 1"),
        ({"token_share": 1.5}, "the share of tokens is 1.5"),
        ({"mean_run": 0.5}, "runs of 0.5 tokens"),
    ],
)
def test_what_cannot_be_picked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        ClusteredSelection(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="200 of 128 channels cannot be picked; take fewer"):
        ClusteredSelection(channels=200).channel_pages(1, 128, 4)
