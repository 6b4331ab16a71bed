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
from offload.texts import help_tokens
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
    """``tokens`` of context; ``steps`` decoded after it, the real text going on; ``needles`` hidden in it."""

    tokens: int = 4096
    steps: int = 16
    needles: int = 8
    tokens_per_group: int = 16
    channels_per_page: int = 4
    compressions: tuple[int, ...] = (1, 2, 4, 8, 16)
    variants: tuple[str, ...] = tuple(VARIANTS)


def csd_frontier(
    model: Path, *, progress: Progress | None = None, sizes: FrontierSizes | None = None, seed: int = 0
) -> dict[str, Any]:
    """One row for each engine and compression.

    ``ours`` is the relative L2 error of the attention outputs of all layers against dense attention over the same
    halves. Further keys: ``bytes_read`` over those of dense attention, in whole pages; ``bytes_with_summaries``, if
    what the engine keeps of each group were read from pages too, and not from the drive's memory; ``kl`` in nats and
    ``top1`` of the model's next token against dense attention; ``needles``, the share of answers about hidden facts
    that are those of dense attention, right or wrong, and ``needles_found``, the share of the right ones that stay
    (None where dense attention finds none). Raises ModelError for a model that cannot be loaded.
    """
    sizes = sizes or FrontierSizes()
    cells = tuple(itertools.product(sizes.variants, sizes.compressions))
    bench = _Frontier(EngineModel(model, sizes.tokens_per_group, sizes.channels_per_page), sizes, cells)
    tick = ticker(progress, (1 + sizes.needles) * len(cells))
    text = help_tokens(model, sizes.tokens + sizes.steps)
    on_text = bench.on_text(text, tick)
    hidden = hide_needles(load_tokenizer(model), text[: sizes.tokens], sizes.needles, seed)
    found, on_needles = bench.on_needles(*hidden, tick)
    context = {"model": model.name, "tokens": sizes.tokens, "page_bytes": bench.model.shape.page_bytes}
    context |= {"needles_found_by_dense": found}
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
            rows[cell] = self._row(cell, self._decode(cell, context, forced), dense)
            tick()
        return rows

    def on_needles(
        self, tokens: Sequence[int], needles: Sequence[Needle], tick: Callable[[], None]
    ) -> tuple[int, dict[Cell, Row]]:
        """Questions after the text, of which the last token and the answer are decoded.

        With the number of those that dense attention answers rightly.
        """
        found, same, kept = 0, Counter[Cell](), Counter[Cell]()
        _, cache = self.model.prefill(tokens)
        for needle in needles:
            if asked_before := cache.get_seq_length() - len(tokens):
                cache.crop(-asked_before)
            context, _ = self.model.prefill([*tokens, *needle.question[:-1]], cache)
            asked, rest = needle.question[-1:], len(needle.answer) - 1
            dense = self.model.decode(context, DenseEngine(), asked, rest).tokens
            found += dense == needle.answer
            for cell in self.cells:
                answer = self._decode(cell, context, asked, rest).tokens
                same[cell] += answer == dense
                kept[cell] += answer == dense == needle.answer
                tick()
        return found, {
            cell: {"needles": same[cell] / len(needles), "needles_found": kept[cell] / found if found else None}
            for cell in self.cells
        }

    def _decode(self, cell: Cell, context: Context, forced: Sequence[int], new_tokens: int = 0) -> Decoded:
        name, compression = cell
        variant = VARIANTS[name]
        engine = variant.make(1 / compression)
        return self.model.decode(context, engine, forced, new_tokens, learnt_order=variant.learnt_order)

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
