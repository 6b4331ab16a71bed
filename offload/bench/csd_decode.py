"""A real model whose decode attention is answered by the drive's engines, over pages in memory."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.channels import learn_channel_order
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.memory_pages import MemoryPages
from tiers.csd.pages import Indices, KVShape

NAME = "csd_engines"

_EVERY = 16
"""Of the prefill's queries, one in so many is kept to learn the order of channels from."""


@dataclass(slots=True)
class Tally:
    """Sums over the attentions of all layers and steps: squares of output and error, and pages."""

    error: float = 0.0
    output: float = 0.0
    pages: int = 0
    dense_pages: int = 0

    @property
    def relative_error(self) -> float:
        """Of the attention output, in L2, against dense attention for the same queries."""
        return float((self.error / self.output) ** 0.5)

    @property
    def bytes_read(self) -> float:
        """Over those of dense attention."""
        return self.pages / self.dense_pages


@dataclass(frozen=True, slots=True)
class Decoded:
    """``tokens`` that the model put first after each step, its ``logits`` [steps, vocabulary], and the tally."""

    tokens: tuple[int, ...]
    logits: Tensor
    tally: Tally


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prefill left of one layer: [kv_heads, tokens, head_dim]; order of channels [kv_heads, head_dim]."""

    keys: NDArray[np.float16]
    values: NDArray[np.float16]
    order: Indices


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens of a prefill and what it left of each layer."""

    tokens: tuple[int, ...]
    layers: tuple[Prefilled, ...]


@dataclass(slots=True)
class _Decode:
    """One engine over one growing sequence."""

    engine: AttentionEngine
    dense: AttentionEngine
    layers: list[MemoryPages]
    tally: Tally = field(default_factory=Tally)


class EngineModel:
    """Prefills as transformers does; a decode step asks an engine in every layer. Pages hold halves.

    Raises ModelError as transformers' loading does. Not to be used from two threads.
    """

    def __init__(self, path: Path, tokens_per_group: int, channels_per_page: int) -> None:
        AttentionInterface.register(NAME, self._attend)
        AttentionMaskInterface.register(NAME, _no_mask)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation=NAME
        )
        config = self.model.config.get_text_config()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.shape = KVShape(kv_heads, heads // kv_heads, head_dim, np.float16, tokens_per_group, channels_per_page)
        self._prefilled: dict[int, Prefilled] = {}
        self._decode: _Decode | None = None

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], after: DynamicCache | None = None) -> tuple[Context, DynamicCache]:
        """Of ``tokens``, the first of which a cache may hold already; it is added to."""
        cache = DynamicCache() if after is None else after
        self.model(torch.tensor([tokens[cache.get_seq_length() :]]), past_key_values=cache, logits_to_keep=1)
        return Context(tuple(tokens), tuple(self._prefilled[layer] for layer in sorted(self._prefilled))), cache

    @torch.inference_mode()
    def decode(
        self,
        context: Context,
        engine: AttentionEngine,
        forced: Sequence[int],
        new_tokens: int = 0,
        *,
        learnt_order: bool = False,
    ) -> Decoded:
        """Runs ``forced`` after the context, one by one, and as many tokens more as greedy choice gives.

        ``forced`` has at least one token: the context's keys are there, what follows it is not known.
        """
        self._decode = _Decode(engine, DenseEngine(), self._pages(context, engine, learnt_order))
        logits: list[Tensor] = []
        tokens = list(forced)
        for step in itertools.count():
            if step == len(tokens):
                break
            position = torch.tensor([[len(context.tokens) + step]])
            logits.append(
                self.model(torch.tensor([[tokens[step]]]), position_ids=position, use_cache=False).logits[0, -1]
            )
            if len(forced) - 1 <= step < len(forced) - 1 + new_tokens:
                tokens.append(int(logits[-1].argmax()))
        tally, self._decode = self._decode.tally, None
        return Decoded(tuple(int(each.argmax()) for each in logits), torch.stack(logits), tally)

    def _pages(self, context: Context, engine: AttentionEngine, learnt_order: bool) -> list[MemoryPages]:
        layers = []
        for layer in context.layers:
            order = layer.order if learnt_order else None
            pages = MemoryPages(self.shape, summary=engine.summary, channel_order=order)
            pages.append(layer.keys, layer.values)
            layers.append(pages)
        return layers

    def _order(self, queries: NDArray[np.float32]) -> Indices:
        """[kv_heads, head_dim] from queries [heads, n, head_dim]."""
        by_head = queries.reshape(self.shape.kv_heads, self.shape.heads_per_kv, *queries.shape[1:]).swapaxes(1, 2)
        return np.stack([learn_channel_order(of_head) for of_head in by_head])

    def _attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, **_: object
    ) -> tuple[Tensor, None]:
        """The attention interface of transformers: query [1, heads, queries, dim] -> [1, queries, heads, dim]."""
        layer = module.layer_idx
        assert isinstance(layer, int)
        if self._decode is None:
            keys, values = (part[0].half().numpy() for part in (key, value))
            self._prefilled[layer] = Prefilled(keys, values, self._order(query[0, :, ::_EVERY].float().numpy()))
            return _causal(query, key, value).transpose(1, 2), None
        decode, pages = self._decode, self._decode.layers[layer]
        pages.append(*(part[0].half().numpy() for part in (key, value)))
        heads = query[0, :, 0].numpy()
        exact = _logged(decode.dense, heads, pages)
        found = _logged(decode.engine, heads, pages)
        decode.tally.error += float(np.square(found.output - exact.output).sum())
        decode.tally.output += float(np.square(exact.output).sum())
        decode.tally.pages += found.pages
        decode.tally.dense_pages += exact.pages
        return torch.from_numpy(found.output)[None, None], None


@dataclass(frozen=True, slots=True)
class _Answer:
    output: NDArray[np.float32]
    pages: int


def _logged(engine: AttentionEngine, query: NDArray[np.float32], pages: MemoryPages) -> _Answer:
    pages.log.clear()
    return _Answer(engine.attend(query, pages).output, pages.log.num_pages)


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The queries are the newest tokens of the keys."""
    new, old = query.shape[2], key.shape[2] - query.shape[2]
    mask = torch.ones(new, old + new, dtype=torch.bool).tril(old) if old else None
    return nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=not old, enable_gqa=True
    )


def _no_mask(**_: object) -> None:
    """What every query sees is known without one."""
