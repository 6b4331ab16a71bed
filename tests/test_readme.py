"""The README is held to the code: its commands and options exist, none is missing, and its example runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from offload.cli import app
from offload.config import KEYS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# Code between backticks, which may be broken over lines.
_SPANS = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", README)]
COMMANDS = sorted({span for span in _SPANS if span.startswith("offload ")})


def _commands(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command that does something, by the words that call it (of click, or of the copy inside typer)."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        return {path: command}
    return {key: leaf for name, sub in subcommands.items() for key, leaf in _commands(sub, (*path, name)).items()}


KNOWN = _commands(typer.main.get_command(app))


def _called(words: list[str]) -> list[Any]:
    """The commands that ``words`` name: several where a group has alternatives as in ``bench io|kv``."""
    found = []
    for path, command in KNOWN.items():
        if len(words) >= len(path) and all(
            name in word.split("|") for name, word in zip(path, words[: len(path)], strict=True)
        ):
            found.append(command)
    return found


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line: str) -> None:
    # Brackets mark what may be left out.
    words = shlex.split(line.replace("[", " ").replace("]", " "))[1:]
    commands = _called(words)
    assert commands, f"no such command: {line}"
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        known = [name for command in commands for parameter in command.params for name in parameter.opts]
        assert option in known, f"{line}: {option} is none of {', '.join(known)}"


@pytest.mark.parametrize("path", sorted(KNOWN), ids=" ".join)
def test_every_command_is_described(path: tuple[str, ...]) -> None:
    described = [command for line in COMMANDS for command in _called(shlex.split(line.replace("[", " "))[1:])]
    assert KNOWN[path] in described


def test_the_table_of_options_is_complete() -> None:
    rows = re.findall(r"^\| `--([a-z-]+)[^`]*` \| `([a-z_]+)` \| `(OFFLOAD_[A-Z_]+)` \|", README, re.MULTILINE)
    assert [key for _, key, _ in rows] == list(KEYS)
    for option, key, variable in rows:
        assert option == key.replace("_", "-")
        assert variable == f"OFFLOAD_{key.upper()}"


def test_the_example_in_python_runs(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert "path/to/model" in example
    assert 'nvme_dir=".offload"' in example
    example = example.replace("path/to/model", str(tiny_llama)).replace('".offload"', repr(str(tmp_path)))
    exec(compile(example, "README.md", "exec"), {})
    assert "Storage is the new memory because" in capsys.readouterr().out


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[1] / link).exists()
