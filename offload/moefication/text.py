"""Text for calibration and distillation, and other text of the same kind to judge the result by.

Every Python has both: the topics of ``pydoc``, of which some are held out, and the docstrings of its library.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiers.errors import InvalidOptionError

_SECTION_CHARACTERS: Final = 4000
_HELD_OUT: Final = slice(3, None, 6)
_RUN_WORDS: Final = 8
_LEAST_DOCSTRING: Final = 200
_SKIPPED: Final = {"test", "tests", "site-packages", "dist-packages", "pydoc_data", "lib2to3", "idlelib"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """``calibration`` is used to choose experts, that and ``more`` to train them, ``held_out`` for nothing but figures.

    No paragraph is there twice, and none of the first two shares eight words in a row with one that is held out.
    """

    calibration: str
    more: str
    held_out: str
    source: str


def read_corpus(file: Path | None, *, with_more: bool = True) -> Corpus:
    """The user's own text, or that of this Python. Every sixth section, from the fourth on, is held out.

    Sections are the topics in the order of their names, and in a file runs of whole paragraphs of 4,000 characters.
    There is ``more`` for who needs it: the docstrings, which take seconds to collect.
    InvalidOptionError where the file cannot be read.
    """
    if file is not None:
        return _split(_sections(_read(file)), (), str(file))
    from pydoc_data.topics import topics

    sections = [topics[name] for name in sorted(topics)]
    if not with_more:
        return _split(sections, (), "pydoc topics")
    return _split(sections, _docstrings(), "pydoc topics and docstrings of the standard library")


def _split(sections: list[str], more: Iterable[str], source: str) -> Corpus:
    held_out = sections[_HELD_OUT]
    del sections[_HELD_OUT]
    seen: set[str] = set()
    kept = list(_unseen(held_out, seen, set()))
    runs = {run for paragraph in kept for run in _runs(paragraph)}
    return Corpus(
        calibration="\n\n".join(_unseen(sections, seen, runs)),
        more="\n\n".join(_unseen(more, seen, runs)),
        held_out="\n\n".join(kept),
        source=source,
    )


def _unseen(texts: Iterable[str], seen: set[str], runs: set[str]) -> Iterator[str]:
    """Paragraphs that are not in ``seen``, to which they are added, and have none of the ``runs`` of words."""
    for text in texts:
        for paragraph in text.split("\n\n"):
            if paragraph not in seen and runs.isdisjoint(_runs(paragraph)):
                seen.add(paragraph)
                yield paragraph


def _runs(paragraph: str) -> Iterator[str]:
    words = paragraph.split()
    for i in range(len(words) - _RUN_WORDS + 1):
        yield " ".join(words[i : i + _RUN_WORDS])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidOptionError(f"--text {file}: cannot be read ({error.strerror}); name a text file") from None
    except UnicodeDecodeError:
        raise InvalidOptionError(f"--text {file}: not a text file in UTF-8") from None


def _sections(text: str) -> list[str]:
    sections: list[str] = []
    paragraphs: list[str] = []
    for paragraph in text.split("\n\n"):
        paragraphs.append(paragraph)
        if sum(map(len, paragraphs)) >= _SECTION_CHARACTERS:
            sections.append("\n\n".join(paragraphs))
            paragraphs = []
    return [*sections, "\n\n".join(paragraphs)]


def _docstrings() -> Iterator[str]:
    """The longer docstrings of the standard library, read and not imported, in the order of its files."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if not _SKIPPED.isdisjoint(file.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # a few files are there to be wrong
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node) or ""
                if len(docstring) >= _LEAST_DOCSTRING:
                    yield docstring
