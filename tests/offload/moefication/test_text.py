from pathlib import Path

import pytest

from offload.moefication.text import Corpus, read_corpus
from tiers.errors import InvalidOptionError


def runs(text: str) -> set[str]:
    """Eight words in a row, within a paragraph."""
    words = [paragraph.split() for paragraph in text.split("\n\n")]
    return {" ".join(part[i : i + 8]) for part in words for i in range(len(part) - 7)}


@pytest.fixture(scope="module")
def topics() -> Corpus:
    return read_corpus(None, with_more=False)


def test_held_out_text_is_nowhere_else(topics: Corpus) -> None:
    assert len(topics.calibration) > 100_000
    assert len(topics.held_out) > 20_000
    assert runs(topics.calibration).isdisjoint(runs(topics.held_out))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """Sections of 4,000 characters; the fourth of every six is held out. What is there twice stays once, held out."""
    sections = [" ".join(f"word{number}_{i}" for i in range(500)) for number in range(8)]
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join([*sections, sections[3], sections[0], sections[5]]))
    corpus = read_corpus(file)
    held_out = [sections[3], sections[0]]
    assert corpus.held_out.split("\n\n") == held_out
    assert corpus.calibration.split("\n\n")[:6] == [text for text in sections if text not in held_out]
    assert corpus.calibration.count(sections[5]) == 1
    assert corpus.more == ""
    assert corpus.source == str(file)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOptionError, match="binary: not a text file in UTF-8"):
        read_corpus(tmp_path / "binary")
    with pytest.raises(InvalidOptionError, match=r"missing: cannot be read \(No such file"):
        read_corpus(tmp_path / "missing")
