"""Heads split over drives: the same answers as one drive gives."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiers.csd.kit import CONFIG, SMALL, attend, attention, tokens, write
from tiers.csd.commands import ReadKV, Reclaim
from tiers.csd.drive import ComputationalDrive
from tiers.csd.drive_array import DriveArray
from tiers.csd.supports_attention import SupportsAttention
from tiers.csd.wire import Opcode
from tiers.errors import DeviceGoneError, InvalidOptionError, TokensLostError

THREE = replace(CONFIG, kv_heads=3, heads_per_kv=2)


@pytest.fixture
def array(tmp_path: Path) -> Iterator[DriveArray]:
    with DriveArray(
        [ComputationalDrive(tmp_path / str(number), SMALL, name=f"csd{number}") for number in range(2)]
    ) as two:
        yield two


def decodes(drive: SupportsAttention) -> None:
    """Ten steps behind a prompt of fifty tokens."""
    made = tokens(60, config=THREE)
    drive.configure(THREE)
    assert drive.write_kv(write(made, 0, 50, config=THREE)).wait().num_tokens == 50
    for token in range(50, 60):
        answer = drive.attend(attend(made, token, config=THREE)).wait()
        output, logsumexp = attention(made, token + 1)
        assert np.abs(answer.output[0] - output).max() < 1e-5
        assert np.abs(answer.logsumexp[0] - logsumexp).max() < 1e-5
    assert drive.inspect(1, 0).num_tokens == (60, 0)
    back = drive.read_kv(ReadKV(1, 0, 0, 3, 50)).wait()
    assert np.array_equal(back.keys, made.keys[:, 3:53])
    assert np.array_equal(back.values, made.values[:, 3:53])


def test_answers_as_one_drive_would(array: DriveArray) -> None:
    decodes(array)
    first, second = (drive.traffic[Opcode.ATTEND].sent_nbytes for drive in array.drives)
    assert (first, second) == (10 * 2 * 4 * 64 * 4, 10 * 1 * 4 * 64 * 4), "two KV heads and one"
    assert all(health.valid_pages > 0 for health in array.health())
    assert array.reclaim(Reclaim(1)).num_pages == 3 * 2 * 3
    with pytest.raises(TokensLostError):
        array.attend(attend(tokens(60, config=THREE), 59, config=THREE)).wait()


def test_one_drive_does_too(tmp_path: Path) -> None:
    with ComputationalDrive(tmp_path / "image", SMALL) as drive:
        decodes(drive)


def test_more_drives_than_heads(array: DriveArray) -> None:
    with pytest.raises(InvalidOptionError, match="1 KV heads cannot be split over 2 drives; use at most 1"):
        array.configure(replace(CONFIG, kv_heads=1))
    with pytest.raises(InvalidOptionError, match="task 1 is not configured"):
        array.attend(attend(tokens(2), 0))


def test_one_that_dies_fails_the_command(array: DriveArray) -> None:
    made = tokens(20)
    array.configure(CONFIG)
    array.write_kv(write(made, 0, 10)).wait()
    os.kill(array.drives[1].pid, signal.SIGKILL)
    with pytest.raises(DeviceGoneError, match="tier 'csd1': the drive's process"):
        array.attend(attend(made, 10)).wait()
