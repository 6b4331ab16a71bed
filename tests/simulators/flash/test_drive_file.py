"""Drives that ship, and numbers that a caller changes."""

from dataclasses import fields
from pathlib import Path

import pytest

from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import changed, load_drive
from simulators.published import published_names
from tiers.errors import InvalidOptionError


@pytest.mark.parametrize("name", published_names("drives"))
def test_drives_that_ship_say_where_their_numbers_are_from(name: str) -> None:
    drive = load_drive(name)
    assert drive.name == name
    assert drive.sources
    assert drive.num_dies == drive.channels * drive.dies_per_channel


def test_every_number_can_be_changed_and_is_read_from_text() -> None:
    drive = DriveParameters()
    for one in fields(DriveParameters):
        if one.name not in ("name", "sources"):
            assert getattr(changed(drive, {one.name: "3"}), one.name) == 3
    assert changed(drive, {"channels": 16, "read_s": "25e-6"}).read_s == 25e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chanels": 4}, "there is no 'chanels'; known are channels, dies_per_channel"),
        ({"channels": "many"}, "'channels' is 'many'; it has to be a whole number"),
        ({"channels": 2.5}, "'channels' is 2.5; it has to be a whole number"),
        ({"channels": True}, "'channels' is True; it has to be a whole number"),
        ({"read_s": None}, "'read_s' is None; it has to be a number"),
        ({"channels": 0}, "drive 'default': channels is 0; it has to be above 0"),
        ({"read_s": -1}, "drive 'default': read_s is -1.0; it has to be at least 0"),
        ({"link_bytes_per_s": 0}, "drive 'default': link_bytes_per_s is 0.0; it has to be above 0"),
        ({"read_s": "nan"}, "'read_s' is 'nan'; it has to be a number"),
        ({"pages_per_sense": 251}, "pages_per_sense and pages_per_program are 251 and 4; together at most 254"),
    ],
)
def test_numbers_that_are_none(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message.replace("(", r"\(")):
        changed(DriveParameters(), settings)


def test_files_that_describe_no_drive(tmp_path: Path) -> None:
    path = tmp_path / "drive.json"
    for text in ("nonsense", "[1]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidOptionError, match="is no description of a drive"):
            load_drive(str(path))
    path.write_text('{"channels": 4}', encoding="utf-8")
    assert load_drive(str(path)) == DriveParameters(name="drive", channels=4)
    with pytest.raises(InvalidOptionError, match="did you mean 'pm9a3'"):
        load_drive("pm9a")
