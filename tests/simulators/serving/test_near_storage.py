"""Attention near many drives behind one link: limits that hold whatever the constants are."""

from dataclasses import replace

import pytest

from simulators.model_costs import read_model_shape
from simulators.published import find_published, load_profile
from simulators.serving.base import Host, Workload
from simulators.serving.link_path import PATHS
from simulators.serving.near_storage import FilesOverLink, NearStorage, SharedLink, best_x_share, input_ratio
from tiers.errors import InvalidOptionError

OPT = read_model_shape(find_published("models", "opt-13b"))
HOST = Host(load_profile("a100"))
WORK = Workload(OPT, 16, 8192, 64)
MACHINE = SharedLink()


def test_traffic_falls_by_half_the_length() -> None:
    for tokens in (1, 511, 4096):
        moved = FilesOverLink(MACHINE).link_nbytes(WORK, tokens) / NearStorage(MACHINE).link_nbytes(WORK, tokens)
        assert moved == (tokens + 1) / 2


def test_one_drive_gains_nothing_and_many_never_more_than_their_flash() -> None:
    for drives in (1, 2, 4, 16):
        machine = replace(MACHINE, drives=drives)
        near, files = NearStorage(machine, 16), FilesOverLink(machine)
        gain = files.step_s(WORK, HOST, 8192) / near.step_s(WORK, HOST, 8192)
        assert gain <= max(1.0, machine.flash_bytes_per_s / machine.file_bytes_per_s) + 1e-9
        assert gain == pytest.approx(1.0) or drives > 1


@pytest.mark.parametrize("link", [4e9, 16e9, 32e9])
def test_the_published_share_balances_link_and_flash(link: float) -> None:
    machine = replace(MACHINE, link_bytes_per_s=link)
    share = best_x_share(machine, WORK, None)
    assert share == pytest.approx(2 * link / (machine.flash_bytes_per_s + link))
    assert share >= best_x_share(machine, WORK, HOST)


@pytest.mark.parametrize("drives", [4, 8, 16])
def test_no_other_share_is_faster(drives: int) -> None:
    machine = replace(MACHINE, drives=drives)
    best = best_x_share(machine, WORK, HOST)

    def step_s(share: float) -> float:
        return NearStorage(machine, 16, share).step_s(WORK, HOST, 8192)

    assert all(step_s(best) <= step_s(share / 20) * (1 + 1e-4) for share in range(21))
    assert step_s(best) < step_s(0.0)


def test_collected_writes_are_fewer() -> None:
    times = [NearStorage(MACHINE, count).step_s(WORK, HOST, 8192) for count in (1, 4, 16, 64)]
    assert times[0] > times[1] > times[2] == times[3]


def test_shared_heads_have_no_smaller_input() -> None:
    shape = read_model_shape(find_published("models", "llama-3.1-8b"))
    with pytest.raises(
        InvalidOptionError, match=r"x_share: 8 KV heads of 128 store 2048 numbers .* its input has 4096"
    ):
        input_ratio(shape)
    NearStorage(MACHINE).step_s(replace(WORK, shape=shape), HOST, 8192)


def test_ways_to_a_drive() -> None:
    direct, bounced = PATHS["p2p"], PATHS["host"]
    assert (direct.hop_s(HOST, 1e9), direct.host_nbytes(1e9)) == (0.0, 0.0)
    assert bounced.hop_s(HOST, 25e9) == pytest.approx(1.0, rel=1e-3)
    assert bounced.host_nbytes(1e9) == 2e9
