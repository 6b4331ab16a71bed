"""What a host can ask of a computing drive, and what it gets back.

The verbs are those of InstAttention (``config``, ``attend``, ``reclaim``; HPCA 2025) and the writes and reports that go
with them. A drive with NVMe Computational Programs (TP4091) and Subsystem Local Memory (TP4131) could take the place of
the emulated one:

========== =============================================================================================
Config     LOAD the engine as a program and ACTIVATE it; MRS create for query, new token and output
WriteKV    WRITE to the memory namespace (the buffers), from where firmware programs whole pages
Attend     WRITE query and new token to local memory; EXECUTE the program on the memory range set, which does
           COPY(NVM -> SLM) of the pages that it wants; READ(SLM) the output and the logsumexp
ReadKV     EXECUTE of a program that only copies (NVM -> SLM); READ(SLM) the tokens
Reclaim    a vendor's DEALLOCATE by task and sequence, followed by erases in the background
Identify   IDENTIFY of the compute namespace
Health     GET LOG PAGE, health information
Inspect    GET LOG PAGE, a vendor's: what is held of one sequence
========== =============================================================================================

A submission is 64 bytes, as in NVMe, with the logical address in doublewords 10 and 11; see ``wire``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiers.csd.address import ADDRESS
from tiers.csd.engines.registry import EXACT
from tiers.csd.geometry import FlashGeometry
from tiers.csd.layout import shape_of
from tiers.csd.pages import KVShape
from tiers.errors import InvalidOptionError

Precision = Literal["float16", "float32"]
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Config:
    """A task: a batch of sequences of one model that end together and therefore share erase blocks.

    ``dtype`` is that of the pages, ``link_dtype`` that of query and output on the link. ``key_copies`` 2 keeps the
    channel index, which selection by channels reads; 1 saves a third of the writes, and then such a selection reads
    groups and transposes them in the drive (as HILOS does, ASPLOS 2026). ``engine`` attends in all layers but
    ``dense_layers``, which are read in full. Sending it again for a task without sequences replaces it.
    """

    task: int
    num_layers: int
    kv_heads: int
    heads_per_kv: int
    head_dim: int
    dtype: Precision = "float16"
    link_dtype: Precision = "float16"
    max_tokens: int = 4096
    key_copies: int = 2
    engine: str = EXACT
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    dense_layers: tuple[int, ...] = ()

    def shape(self, geometry: FlashGeometry) -> KVShape:
        """How a layer lies in the pages of a drive. Raises InvalidOptionError for what does not divide or exist."""
        ADDRESS.check(task=self.task, layer=self.num_layers, head=self.kv_heads)
        for name in ("num_layers", "max_tokens"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        for name in ("dtype", "link_dtype"):
            if getattr(self, name) not in ("float16", "float32"):
                raise InvalidOptionError(f"{name} '{getattr(self, name)}' is unknown; choose float16 or float32")
        if self.key_copies not in (1, 2):
            raise InvalidOptionError(f"key_copies is {self.key_copies}; keep 1 or 2 copies of the keys")
        if wrong := [layer for layer in self.dense_layers if not 0 <= layer < self.num_layers]:
            raise InvalidOptionError(f"dense_layers names layer {wrong[0]}; there are {self.num_layers}, from 0")
        return shape_of(
            kv_heads=self.kv_heads,
            heads_per_kv=self.heads_per_kv,
            head_dim=self.head_dim,
            dtype=self.dtype,
            page_nbytes=geometry.page_nbytes,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, slots=True, eq=False)
class WriteKV:
    """Keys and values [kv_heads, n, head_dim] of tokens ``start`` to ``start + n`` of one layer of one sequence."""

    task: int
    sequence: int
    layer: int
    start: int
    keys: Reals
    values: Reals


@dataclass(frozen=True, slots=True, eq=False)
class Attend:
    """One layer of one decoding step of some sequences: append the new token of each, and attend to all of it.

    ``sequences`` and ``starts`` [batch]: who, and how many tokens each had before. ``query`` [batch, heads, head_dim];
    ``keys`` and ``values`` [batch, kv_heads, head_dim], or None where the host keeps its newest tokens to itself for
    now and merges by ``logsumexp``. ``in_full`` reads all of it whatever the engine of the task would read: for a host
    that wants to know what an engine that reads a part has missed.
    """

    task: int
    layer: int
    sequences: NDArray[np.int64]
    starts: NDArray[np.int64]
    query: Reals
    keys: Reals | None = None
    values: Reals | None = None
    in_full: bool = False


@dataclass(frozen=True, slots=True)
class ReadKV:
    """Give back keys and values of ``num_tokens`` tokens from ``start`` on: for a host that attends to them itself."""

    task: int
    sequence: int
    layer: int
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Reclaim:
    """These sequences of a task are finished; all of them if none is named."""

    task: int
    sequences: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Identify:
    """What kind of drive is this?"""


@dataclass(frozen=True, slots=True)
class Health:
    """How is it?"""


@dataclass(frozen=True, slots=True)
class Inspect:
    """What is held of a sequence, layer by layer?"""

    task: int
    sequence: int


Command = Config | WriteKV | Attend | ReadKV | Reclaim | Identify | Health | Inspect


@dataclass(frozen=True, slots=True)
class Configured:
    """How the pages of the task are filled."""

    tokens_per_group: int
    channels_per_page: int


@dataclass(frozen=True, slots=True)
class Written:
    """What the drive holds of the layer now. Tokens below ``num_flushed`` survive the drive's process."""

    num_tokens: int
    num_flushed: int


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """``output`` [batch, heads, head_dim] in the precision of the link, ``logsumexp`` [batch, heads] in float32."""

    output: Reals
    logsumexp: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TokensRead:
    """``keys`` and ``values`` [kv_heads, num_tokens, head_dim] as they were written."""

    keys: Reals
    values: Reals


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Pages that died. Their blocks are erased in the background, or when their room is wanted."""

    num_pages: int


@dataclass(frozen=True, slots=True)
class DriveIdentity:
    """What kind of drive it is. ``was_made``: it was empty when it was opened."""

    version: int
    geometry: FlashGeometry
    engines: tuple[str, ...]
    was_made: bool


@dataclass(frozen=True, slots=True)
class DriveHealth:
    """How the drive is. ``free + valid + dead`` pages are all of them."""

    free_pages: int
    valid_pages: int
    dead_pages: int
    pages_read: int
    pages_programmed: int
    blocks_erased: int
    wear_least: int
    wear_mean: float
    wear_most: int
    memory_used_nbytes: int
    memory_nbytes: int
    sequences: int
    lost_pages: int
    """Pages that were recorded but not sound when the drive was opened."""
    summary_pages: int = 0
    """Of the valid pages, those that hold summaries of groups for which the memory is too small."""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """Tokens of each layer of a sequence that the drive holds, and how many of those would survive its process."""

    num_tokens: tuple[int, ...]
    num_flushed: tuple[int, ...]


Completion = Configured | Written | Attended | TokensRead | Reclaimed | DriveIdentity | DriveHealth | SequenceState
