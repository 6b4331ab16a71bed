"""What each attention engine of the drive reads, and what it costs in accuracy: a real model on a real text."""

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from offload.bench.csd_decode import Context, Decoded, EngineModel
from offload.bench.header import header
from offload.bench.needles import Needle, hide_needles
from offload.bench.ticker import Progress, ticker
from offload.texts import file_tokens, help_tokens
from offload.tokens import load_tokenizer
from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.channel_groups import ChannelGroupsEngine
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.engines.group_bounds import GroupBoundsEngine
from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.csd.engines.sparf import SparFEngine

Row = dict[str, Any]
Cell = tuple[str, int]
"""A variant's name and how many times less than everything it reads."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine and the layout it reads: ``learnt_order`` of channels, from the queries of the prefill."""

    make: Callable[[float], AttentionEngine]
    learnt_order: bool = False


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "sparf": Variant(lambda share: SparFEngine(share, share)),
        "sparf, learnt channel order": Variant(lambda share: SparFEngine(share, share), learnt_order=True),
        "channel_groups, any channels": Variant(lambda share: ChannelGroupsEngine(share, share, whole_pages=False)),
        "channel_groups, learnt channel order": Variant(
            lambda share: ChannelGroupsEngine(share, share), learnt_order=True
        ),
        "group_bounds": Variant(GroupBoundsEngine),
        "group_mass": Variant(GroupMassEngine),
        "group_mass, 2 ranges": Variant(lambda share: GroupMassEngine(share, ranges=2)),
    }
)


@dataclass(frozen=True, slots=True)
class FrontierSizes:
    """``tokens`` of context; ``steps`` decoded after it, the real text going on.

    ``needles`` are hidden in the first ``needle_tokens`` of them.
    """

    tokens: int = 4096
    steps: int = 64
    needle_tokens: int = 2048
    needles: int = 32
    tokens_per_group: int = 16
    channels_per_page: int = 4
    compressions: tuple[int, ...] = (1, 2, 4, 8, 16)
    variants: tuple[str, ...] = tuple(VARIANTS)


def csd_frontier(
    model: Path,
    *,
    text: Path | None = None,
    progress: Progress | None = None,
    sizes: FrontierSizes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """One row for each engine and compression, on ``text`` or else on the help of Python.

    ``ours`` is the relative L2 error of the attention outputs of all layers against dense attention over the same
    halves. Further keys: ``bytes_read`` over those of dense attention, in whole pages; ``bytes_with_summaries``, if
    what the engine keeps of each group were read from pages too, and not from the drive's memory; ``kl`` in nats and
    ``top1`` of the model's next token against dense attention; ``needles``, the share of the hidden facts told rightly,
    of those that dense attention tells (None where it tells none). Raises ModelError for a model that cannot be loaded,
    InvalidOptionError for a text that is too short.
    """
    sizes = sizes or FrontierSizes()
    cells = tuple(itertools.product(sizes.variants, sizes.compressions))
    most = max(sizes.tokens + sizes.steps, sizes.needle_tokens)
    tokens = help_tokens(model, most) if text is None else file_tokens(model, most, text)
    bench = _Frontier(EngineModel(model, sizes.tokens_per_group, sizes.channels_per_page), sizes, cells)
    tick = ticker(progress, (1 + sizes.needles) * len(cells))
    on_text = bench.on_text(tokens[: sizes.tokens + sizes.steps], tick)
    hidden = hide_needles(load_tokenizer(model), tokens[: sizes.needle_tokens], sizes.needles, seed)
    found, on_needles = bench.on_needles(*hidden, tick)
    context = {"model": model.name, "text": "Python's help" if text is None else text.name, "tokens": sizes.tokens}
    context |= {"page_bytes": bench.model.shape.page_bytes, "needles": sizes.needles, "needles_found_by_dense": found}
    return header(seed=seed) | context | {"rows": [on_text[cell] | on_needles[cell] for cell in cells]}


@dataclass(frozen=True, slots=True)
class _Frontier:
    model: EngineModel
    sizes: FrontierSizes
    cells: tuple[Cell, ...]

    def on_text(self, text: Sequence[int], tick: Callable[[], None]) -> dict[Cell, Row]:
        """The text's end is decoded token by token, after its beginning."""
        context, _ = self.model.prefill(text[: self.sizes.tokens])
        forced = text[self.sizes.tokens :]
        dense = self.model.decode(context, DenseEngine(), forced)
        rows = {}
        for cell in self.cells:
            engine, variant = _engine(cell)
            decoded = self.model.decode(context, engine, forced, learnt_order=variant.learnt_order)
            rows[cell] = self._row(cell, decoded, dense)
            tick()
        return rows

    def on_needles(
        self, tokens: Sequence[int], needles: Sequence[Needle], tick: Callable[[], None]
    ) -> tuple[int, dict[Cell, Row]]:
        """Questions after the text, of which the last token and the answer are decoded.

        With the number of those that dense attention answers rightly; the others tell nothing and are not asked again.
        """
        found, kept = 0, Counter[Cell]()
        _, cache = self.model.prefill(tokens)
        for needle in needles:
            if asked_before := cache.get_seq_length() - len(tokens):
                cache.crop(-asked_before)
            context, _ = self.model.prefill([*tokens, *needle.question[:-1]], cache)
            is_found = self._is_told(context, needle, DenseEngine())
            found += is_found
            for cell in self.cells:
                engine, variant = _engine(cell)
                kept[cell] += is_found and self._is_told(context, needle, engine, learnt_order=variant.learnt_order)
                tick()
        return found, {cell: {"needles": kept[cell] / found if found else None} for cell in self.cells}

    def _is_told(
        self, context: Context, needle: Needle, engine: AttentionEngine, *, learnt_order: bool = False
    ) -> bool:
        return self.model.answers(context, engine, needle.question[-1], needle.answer, learnt_order=learnt_order)

    def _row(self, cell: Cell, found: Decoded, dense: Decoded) -> Row:
        name, compression = cell
        kept = VARIANTS[name].make(1.0).summary.vectors / (2 * self.sizes.tokens_per_group)
        ours, theirs = (decoded.logits.log_softmax(-1) for decoded in (found, dense))
        divergence = nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return {
            "name": f"{name} at 1/{compression}",
            "unit": "relative error",
            "ours": found.tally.relative_error,
            "bytes_read": found.tally.bytes_read,
            "bytes_with_summaries": found.tally.bytes_read + kept,
            "kl": float(divergence),
            "top1": sum(map(operator.eq, found.tokens, dense.tokens)) / len(dense.tokens),
        }


def _engine(cell: Cell) -> tuple[AttentionEngine, Variant]:
    name, compression = cell
    return VARIANTS[name].make(1 / compression), VARIANTS[name]
