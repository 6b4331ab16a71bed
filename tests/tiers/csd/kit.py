"""What the tests of the computing drive share: a small drive, keys and values, and attention written down plainly."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tiers.csd.commands import Attend, Config, Reals, WriteKV
from tiers.csd.geometry import FlashGeometry
from tiers.csd.image import FlashImage
from tiers.csd.store import DriveStore

SMALL = FlashGeometry(
    channels=2, dies_per_channel=2, blocks_per_die=16, pages_per_block=8, page_nbytes=4096, dram_nbytes=1 << 20
)
"""512 pages: 2 MiB."""
CONFIG = Config(
    task=1, num_layers=2, kv_heads=2, heads_per_kv=2, head_dim=64, dtype="float32", link_dtype="float32", max_tokens=256
)
"""Groups of 16 tokens; 4 KiB; spans of 128 tokens, 8 channels a page."""

BY_CHANNELS = replace(CONFIG, engine="channel_groups", engine_options={"r": 1.0, "groups": 1.0})
"""Learns an order of channels, and reads all of everything, which is exact."""


@dataclass(frozen=True)
class Tokens:
    """Keys and values [kv_heads, n, head_dim] of one sequence and query heads [heads, head_dim] for it."""

    keys: Reals
    values: Reals
    query: Reals


def tokens(n: int, seed: int = 0, config: Config = CONFIG) -> Tokens:
    """Random ones, in the precision of the pages."""
    random = np.random.default_rng(seed)
    shape = (config.kv_heads, n, config.head_dim)
    keys, values = (random.standard_normal(shape).astype(config.dtype) for _ in range(2))
    heads = config.kv_heads * config.heads_per_kv
    return Tokens(keys, values, random.standard_normal((heads, config.head_dim)).astype(config.link_dtype))


def write(
    made: Tokens, first: int, last: int, *, sequence: int = 0, layer: int = 0, config: Config = CONFIG
) -> WriteKV:
    """The command that writes some of them."""
    return WriteKV(config.task, sequence, layer, first, made.keys[:, first:last], made.values[:, first:last])


def attend(made: Tokens, token: int, *, sequence: int = 0, layer: int = 0, config: Config = CONFIG) -> Attend:
    """The command that appends one of them and attends."""
    keys, values = made.keys[None, :, token], made.values[None, :, token]
    return Attend(config.task, layer, np.array([sequence]), np.array([token]), made.query[None], keys, values)


def attention(made: Tokens, n: int) -> tuple[Reals, Reals]:
    """Output [heads, head_dim] and logsumexp [heads] over the first ``n`` tokens, in double precision."""
    per_kv = len(made.query) // len(made.keys)
    keys = np.repeat(made.keys[:, :n].astype(np.float64), per_kv, axis=0)
    values = np.repeat(made.values[:, :n].astype(np.float64), per_kv, axis=0)
    scores = np.einsum("hd,hnd->hn", made.query.astype(np.float64), keys) / np.sqrt(keys.shape[-1])
    weights = np.exp(scores)
    total = weights.sum(axis=1)
    return np.einsum("hn,hnd->hd", weights / total[:, None], values), np.log(total)


def open_store(path: Path, geometry: FlashGeometry = SMALL, *, traces: bool = False) -> DriveStore:
    """The inside of a drive whose image stays."""
    return DriveStore(FlashImage(path, geometry, keep=True), traces=traces)


def is_right(output: Reals, made: Tokens, n: int) -> bool:
    """Whether that is the attention over the first ``n`` tokens, in float32."""
    return bool(np.abs(output - attention(made, n)[0]).max() < 1e-5)
