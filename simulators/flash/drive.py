"""The numbers of a computing drive from which its times follow."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tiers.errors import InvalidOptionError

_TIMES = ("read_s", "program_s", "erase_s", "retries_per_page", "command_s", "firmware_s", "link_latency_s")
_MOST_KINDS = 254
"""Kinds of operations are bytes; an erase is one of them."""


@dataclass(frozen=True, slots=True)
class DriveParameters:
    """Stations of a command: submit, die, channel, entry filter, GeMV, softmax, top-k, device memory, link.

    The defaults are where a calibration starts; ``sources`` says of a drive that ships where its numbers come from.
    Raises InvalidOptionError for what is not positive (counts, rates) or negative (times).
    """

    name: str = "default"
    channels: int = 8
    dies_per_channel: int = 16
    page_nbytes: int = 4096
    """What crosses a channel in one piece: a group of tokens, or the tokens of a few channels."""
    pages_per_sense: int = 1
    """Pages that lie side by side on the planes of a die and are brought up by one sense."""
    pages_per_program: int = 4
    """Pages that one program takes from the buffer, over all planes of a die."""
    read_s: float = 40e-6
    """tR: array to page register."""
    program_s: float = 650e-6
    """tPROG."""
    erase_s: float = 3.5e-3
    """tBERS."""
    retries_per_page: float = 0.0
    """Expected further senses of a page, for its errors: each costs another ``read_s``."""
    channel_bytes_per_s: float = 1.4e9
    """Of each channel."""
    command_s: float = 0.3e-6
    """Command and address on the channel, per page."""
    firmware_s: float = 10e-6
    """Per command of the host; the engines ask for pages without it."""
    filter_bytes_per_s: float = 1.85e9
    """Of the entry filter in each channel's controller."""
    gemv_units: int = 2
    gemv_flops: float = 12.7e9
    """FLOP/s of each."""
    softmax_units: int = 4
    softmax_per_s: float = 14.2e6
    """Scores a second through each."""
    ranked_per_s: float = 285e6
    """Scores a second through the one top-k unit: one a cycle."""
    dram_bytes_per_s: float = 19.2e9
    link_bytes_per_s: float = 7.0e9
    link_latency_s: float = 1e-6
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in _TIMES and not value >= 0:
                raise InvalidOptionError(f"drive '{self.name}': {one.name} is {value}; it has to be at least 0")
            if one.name not in ("name", "sources", *_TIMES) and not value > 0:
                raise InvalidOptionError(f"drive '{self.name}': {one.name} is {value}; it has to be above 0")
        if self.pages_per_sense + self.pages_per_program > _MOST_KINDS:
            raise InvalidOptionError(
                f"drive '{self.name}': pages_per_sense and pages_per_program are {self.pages_per_sense} and "
                f"{self.pages_per_program}; together at most {_MOST_KINDS}"
            )

    @property
    def num_dies(self) -> int:
        """Over all channels."""
        return self.channels * self.dies_per_channel

    @property
    def page_transfer_s(self) -> float:
        """One page on its channel."""
        return self.command_s + self.page_nbytes / self.channel_bytes_per_s

    @property
    def sense_s(self) -> float:
        """A sense with the retries that are to be expected."""
        return self.read_s * (1 + self.retries_per_page)

    def link_s(self, nbytes: float) -> float:
        """Over the external link, without a stop in host memory."""
        return self.link_latency_s + nbytes / self.link_bytes_per_s
