"""The prompt of a run: from the command line, a file or standard input."""

import os
import re
import sys
from pathlib import Path
from typing import Final

from tiers.errors import InvalidOptionError

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The text of ``--prompt`` or of ``--prompt-file`` (``-`` is standard input); InvalidOptionError unless one is."""
    if prompt is not None and file is not None:
        raise InvalidOptionError("--prompt and --prompt-file: both given; give one of them")
    if file is not None:
        text, source = _read(file), f"--prompt-file: {file}"
    elif prompt is not None:
        text, source = _decoded(prompt), "--prompt:"
    else:
        raise InvalidOptionError("--prompt: missing; give --prompt TEXT or --prompt-file FILE")
    if not text:
        raise InvalidOptionError(f"{source} is empty; give at least one word")
    return text


def read_prompts(file: Path) -> list[str]:
    """The prompts of ``--prompts``, one a line (``-`` is standard input); InvalidOptionError for none."""
    prompts = [line for line in _read(file, "--prompts").splitlines() if line.strip()]
    if not prompts:
        raise InvalidOptionError(f"--prompts: {file} is empty; write a prompt on each line")
    return prompts


def _read(file: Path, option: str = "--prompt-file") -> str:
    try:
        # Not as text: stdin would be decoded as this locale wants it. Line ends become those of text all the same.
        text = (sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()).decode("utf-8")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise InvalidOptionError(f"{option}: {file}: not a text file in UTF-8; convert it, as iconv does") from None
    except OSError as error:
        raise InvalidOptionError(f"{option}: {file}: {error.strerror or error}; name a text file") from None


def _decoded(argument: str) -> str:
    """An argument whose bytes are no text in this locale arrives as surrogates: they are taken for UTF-8."""
    try:
        return os.fsencode(argument).decode("utf-8") if _SURROGATE.search(argument) else argument
    except UnicodeDecodeError:
        raise InvalidOptionError("--prompt: not text in UTF-8; write it to a file in UTF-8 for --prompt-file") from None
