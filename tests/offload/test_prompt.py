"""Prompts from files."""

from pathlib import Path

import pytest

from offload.commands.prompt import read_prompt, read_prompts


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_of_other_systems_are_line_ends(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(end.join((b"one", b"two", b"")))
    assert read_prompt(None, file).splitlines() == ["one", "two"]
    assert "\r" not in read_prompt(None, file)
    assert read_prompts(file) == ["one", "two"]
