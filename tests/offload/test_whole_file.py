"""A file that is written whole or not at all."""

from pathlib import Path

import pytest

from offload.whole_file import write_whole
from tiers.errors import InvalidOptionError


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first, and longer", "é"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for name in ("full", "missing/a.txt"):
        with pytest.raises(InvalidOptionError, match="cannot be written"):
            write_whole(tmp_path / name, "text")
    path = tmp_path / "a.txt"
    write_whole(path, "kept")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half of it \ud800")
    assert path.read_text(encoding="utf-8") == "kept"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.txt", "full"]
