"""The file of a drive: who may open it, and what is no image."""

import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiers.csd.kit import CONFIG, SMALL, open_store, tokens, write
from tests.tiers.kit import open_fds
from tiers.csd import image as image_module
from tiers.csd.commands import Reclaim
from tiers.csd.image import FlashImage
from tiers.errors import DiskFullError, InvalidOptionError, TierBusyError


def test_nobody_else_can_look_and_its_space_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with closing(FlashImage(path, SMALL, keep=True)):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_blocks * 512 >= found.st_size > SMALL.capacity_nbytes


def test_leaves_no_name_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    with closing(FlashImage(tmp_path / "image", SMALL, keep=False)):
        assert list(tmp_path.iterdir()) == []


def test_does_not_take_the_name_of_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "image"
    FlashImage(path, SMALL, keep=True).close()
    with pytest.raises(InvalidOptionError, match=f"flash image {path}: File exists; name another file"):
        FlashImage(path, SMALL, keep=False)
    assert path.exists()


def test_is_for_one_drive_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with closing(FlashImage(path, SMALL, keep=True)):
        before = open_fds()
        with pytest.raises(TierBusyError, match=f"flash image {path}: another drive is using it"):
            FlashImage(path, SMALL, keep=True)
        assert open_fds() == before
    FlashImage(path, SMALL, keep=True).close()


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    monkeypatch.setattr(image_module, "VERSION", 7)
    FlashImage(path, SMALL, keep=True).close()
    monkeypatch.undo()
    with pytest.raises(InvalidOptionError, match=f"{path}: it has version 7, this is version 2; remove it or name"):
        FlashImage(path, SMALL, keep=True)


@pytest.mark.parametrize("damage", [b"", b"hello", b"OFFLDCSD" + bytes(100)])
def test_what_is_no_image_is_refused_and_left_alone(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(damage or b"x")
    before = path.read_bytes()
    with pytest.raises(
        InvalidOptionError, match=f"flash image {path}: .*(not a flash image|header is damaged|version)"
    ):
        FlashImage(path, SMALL, keep=True)
    assert path.read_bytes() == before


def test_damage_to_the_header_and_to_the_length_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "image"
    FlashImage(path, SMALL, keep=True).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"\x01" + whole[21:])
    with pytest.raises(InvalidOptionError, match="its header is damaged"):
        FlashImage(path, SMALL, keep=True)
    path.write_bytes(whole[:-1])
    with pytest.raises(InvalidOptionError, match="bytes long and should be"):
        FlashImage(path, SMALL, keep=True)


def test_another_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    FlashImage(path, SMALL, keep=True).close()
    with pytest.raises(InvalidOptionError, match=r"its geometry is another one \(channels 2, not 4, blocks_per_die 16"):
        FlashImage(path, replace(SMALL, channels=4, blocks_per_die=8), keep=True)


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    before = open_fds()
    for path in (tmp_path, tmp_path / "none" / "image", Path("/proc/image")):
        with pytest.raises(InvalidOptionError, match=f"flash image {path}: .*; name another file"):
            FlashImage(path, SMALL, keep=True)
    assert open_fds() == before


def test_a_disk_that_is_too_small_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    vast = replace(SMALL, blocks_per_die=1 << 26, dram_nbytes=1 << 40)
    with pytest.raises(DiskFullError, match="bytes wanted"):
        FlashImage(tmp_path / "image", vast, keep=True)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_image_remembers_its_wear_and_its_room(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with closing(open_store(path)) as store:
        assert store.identify().was_made
        store.configure(CONFIG)
        for sequence in range(2):
            store.write_kv(write(tokens(200), 0, 200, sequence=sequence))
        store.reclaim(Reclaim(1))
        while store.work():
            pass
        store.write_kv(write(tokens(200), 0, 200, sequence=7))
        before = store.health()
    with closing(open_store(path)) as store:
        assert not store.identify().was_made
        after = store.health()
        assert (after.wear_least, after.wear_mean, after.wear_most) == (0, before.wear_mean, 1)
        assert after.valid_pages == before.valid_pages
        assert after.dead_pages < 32, "no more than the rows that were open"
        assert after.lost_pages == 0
        assert after.sequences == 1
        store.check()
