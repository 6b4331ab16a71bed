from pathlib import Path

import numpy as np
import pytest

from tiers.array_file import ArrayFormat, Arrays
from tiers.errors import InvalidOptionError, TraceError

THINGS = ArrayFormat("things-1", "thing", "make one", TraceError)


def first(found: Arrays) -> int:
    return int(found["numbers"][0])


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    THINGS.save(tmp_path / "a.npz", numbers=np.arange(3, 6))
    assert THINGS.load(tmp_path / "a.npz", first) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_every_way_of_being_no_thing_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(TraceError, match=r"a\.npz: no such thing; make one"):
        THINGS.load(path, first)
    for content in (b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(TraceError, match=r"a\.npz: is no thing, or a damaged one; make one"):
            THINGS.load(path, first)
    np.savez(path, format="others-1")
    with pytest.raises(TraceError, match=r"a\.npz: is of the format 'others-1', not things-1; make one"):
        THINGS.load(path, first)
    THINGS.save(path, strings=np.array(["x"]))
    with pytest.raises(TraceError, match=r"a\.npz: is no thing, or a damaged one"):
        THINGS.load(path, first)


def test_the_reader_may_say_more(tmp_path: Path) -> None:
    def refuse(_: Arrays) -> int:
        raise TraceError("its numbers fall")

    THINGS.save(tmp_path / "a.npz", numbers=np.ones(1))
    with pytest.raises(TraceError, match=r"^\S+a\.npz: its numbers fall$"):
        THINGS.load(tmp_path / "a.npz", refuse)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        THINGS.save(tmp_path / "missing" / "a.npz", numbers=np.ones(1))
