"""A share of the tokens stored as the input of their projections, which is smaller (the X-cache of HILOS, ASPLOS 2026).

While drives attend to the other tokens, these inputs come back, and the device makes keys and values of them again and
attends to those. Worth while where heads share no keys and values and the link has time to spare.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offload.attention.partial import PartialAttention, attend_all, merge, merge_some
from offload.kv.drive_rows import DriveSequences
from offload.kv.drives import Asked, KVDrives
from offload.kv.new_tokens import NewTokens
from offload.kv.projection import Projection


@dataclass(frozen=True, slots=True, eq=False)
class InputCache:
    """``share`` of the tokens, in groups of ``group_tokens``, are stored as inputs in ``drives``."""

    drives: KVDrives
    share: float
    group_tokens: int
    projections: Mapping[int, Projection]
    heads: int
    """As which drives take them: each half of an input is so many heads."""

    def rows(self, others: DriveSequences) -> "InputRows":
        """Of a new cache whose other tokens are in ``others``."""
        return InputRows(self, DriveSequences(self.drives), others)


class InputRows:
    """Rows whose tokens are inputs in drives, or keys and values in drives."""

    def __init__(self, cache: InputCache, inputs: DriveSequences, others: DriveSequences) -> None:
        self._cache, self._inputs, self._others = cache, inputs, others
        self._is_checked: set[int] = set()

    def open(self, layer: int, keys: Tensor, values: Tensor, inputs: Tensor | None) -> None:
        """See DriveRows."""
        assert inputs is not None, "the module of every layer is watched"
        self._others.open(layer, keys, values, None)
        first, second = (part.transpose(1, 2) for part in self._halves(inputs))
        self._inputs.open(layer, first, second, None)

    def num_tokens(self, layer: int, row: int) -> int:
        """See DriveRows."""
        return self._others.num_tokens(layer, row) + self._inputs.num_tokens(layer, row)

    def write(self, layer: int, row: int, tokens: NewTokens) -> None:
        """Append whole groups, those that make up the share as inputs. ModelError where that cannot be undone."""
        cache, held = self._cache, self._inputs.num_tokens(layer, row)
        wanted = cache.share * (self.num_tokens(layer, row) + len(tokens)) - held
        count = min(len(tokens), max(0, round(wanted / cache.group_tokens)) * cache.group_tokens)
        if count:
            stored = tokens[:count]
            if layer not in self._is_checked:
                cache.projections[layer].check(tokens[: cache.group_tokens])
                self._is_checked.add(layer)
            assert stored.inputs is not None, "the module of every layer is watched"
            self._inputs.write(layer, row, NewTokens(*self._halves(stored.inputs)))
        self._others.write(layer, row, tokens[count:])

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """All of a row, not in its order: what was stored as inputs comes first."""
        read = self._others.read(layer, row) if self._others.num_tokens(layer, row) else None
        if not self._inputs.num_tokens(layer, row):
            assert read is not None, "nobody reads a row without tokens"
            return read
        keys, values = self._made(layer, row)
        if read is None:
            return keys, values
        return torch.cat([keys, read[0].to(keys)]), torch.cat([values, read[1].to(values)])

    def attend(self, layer: int, query: Tensor, tokens: NewTokens, scale: float) -> PartialAttention:
        """See DriveRows; a new token goes to the drives with its query."""
        found = self._others.attend(layer, query, tokens, scale).to("cpu")
        return merge([self._attend_inputs(layer, range(query.shape[0]), query, scale), found])

    def ask(self, layer: int, rows: Sequence[int], query: Tensor, scale: float) -> "_AskedBoth":
        """See DriveSequences."""
        held = [place for place, row in enumerate(rows) if self._others.num_tokens(layer, row)]
        asked = self._others.ask(layer, [rows[place] for place in held], query[held], scale) if held else None
        return _AskedBoth(lambda: self._attend_inputs(layer, rows, query, scale), asked, held)

    def _attend_inputs(self, layer: int, rows: Sequence[int], query: Tensor, scale: float) -> PartialAttention:
        """Of queries [rows, heads, head_dim] to what is stored as inputs, made keys and values on their device."""
        parts = []
        for place, row in enumerate(rows):
            asking = query[place].unsqueeze(1)
            if self._inputs.num_tokens(layer, row):
                keys, values = self._made(layer, row)
                parts.append(attend_all(asking, keys, values, scale))
            else:
                parts.append(PartialAttention.of_nothing(asking, query.shape[-1]))
        outputs = torch.stack([part.output.squeeze(1).float() for part in parts])
        return PartialAttention(outputs, torch.stack([part.logsumexp.squeeze(1) for part in parts])).to("cpu")

    def close(self) -> None:
        """See DriveRows."""
        self._inputs.close()
        self._others.close()

    def abandon(self) -> None:
        """See DriveRows."""
        self._inputs.abandon()
        self._others.abandon()

    def _made(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        stored = torch.cat([part.flatten(1) for part in self._inputs.read(layer, row)], 1)
        return self._cache.projections[layer](stored)

    def _halves(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [..., width] as drives take them, like keys and like values [..., heads, head_dim]."""
        first, second = inputs.unflatten(-1, (2, self._cache.heads, -1)).unbind(-3)
        return first, second


class _AskedBoth:
    """What drives attend to, and what came back of them."""

    def __init__(self, attend_inputs: Callable[[], PartialAttention], asked: Asked | None, places: list[int]) -> None:
        """``places``: of the rows that the drives were ``asked`` for."""
        self._attend_inputs, self._asked, self._places = attend_inputs, asked, places

    def wait(self) -> PartialAttention:
        """See Asked. What came back is attended to while the drives are still at work."""
        found = self._attend_inputs()
        return found if self._asked is None else merge_some(found, self._places, self._asked.wait().to("cpu"))
