"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.sizes import exact_size, format_size, parse_count, parse_size
from tiers.errors import InvalidOptionError, UsageError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("1KiB", 1024),
        ("64MiB", 64 * 2**20),
        ("8GiB", 8 * 2**30),
        ("2TiB", 2 * 2**40),
        ("1.5GiB", 3 * 2**29),
        ("0.1KiB", 102),
        ("1kB", 1000),
        ("8MB", 8_000_000),
        ("8GB", 8_000_000_000),
        ("1TB", 10**12),
    ],
)
def test_reads_what_people_write(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("8GB ", "write 8GB"),
        (" 8GB", "write 8GB"),
        ("8 GiB", "write 8GiB"),
        ("8gib", "write 8GiB"),
        ("8G", "write 8GiB"),
        ("512m", "write 512MiB"),
        ("8Gb", "write 8GB"),
        ("-8GiB", "write 8GiB"),
        ("+8GiB", "write 8GiB"),
        ("-1", "write 1"),
        ("8XB", "write it like 8MiB or 8GiB"),
        ("1e9", "write it like 64MiB or 8GiB"),
        ("", "write it like 64MiB or 8GiB"),
        ("nan", "write it like 64MiB or 8GiB"),
        ("inf", "write it like 64MiB or 8GiB"),
        ("0x10", "write it like"),
        ("1_000", "write it like"),
        ("8GiB\n", "write 8GiB"),
        ("\u0668GiB", "write it like 64MiB or 8GiB"),
        ("\u00b2", "write it like 64MiB or 8GiB"),
        ("9" * 5000, "write it like 64MiB or 8GiB"),
        ("9999999TiB", "write a size such as 8GiB"),
    ],
)
def test_refuses_what_is_no_size_and_names_the_nearest_that_is(text: str, cure: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_size(text)
    assert cure in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (64 * 2**20, "64MiB"), (10**9, "953.7MiB")],
)
def test_writes_sizes_as_it_reads_them(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


@given(st.integers(0, 2**60))
def test_what_it_writes_it_reads_back_to_one_decimal(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == pytest.approx(nbytes, rel=0.05)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_an_error_of_ours(text: str) -> None:
    try:
        nbytes, said = parse_size(text), repr(text)
    except UsageError as error:
        nbytes, said = 0, str(error)
    assert nbytes >= 0
    assert repr(text) in said


@given(st.integers(0, 2**62))
def test_an_exact_size_loses_nothing(nbytes: int) -> None:
    assert parse_size(exact_size(nbytes)) == nbytes
    assert exact_size(96 * 2**30) == "96GiB"


def test_counts() -> None:
    assert parse_count("0") == 0
    assert parse_count("12", least=1) == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "", " 1", "many", "9" * 5000, "\u00b2"])
def test_refuses_what_is_no_count(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="write a whole number from 1 up"):
        parse_count(text, least=1)
