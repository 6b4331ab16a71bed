"""A real model whose decode attention is answered by the drive's engines, over pages in memory."""

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
    layers: list[MemoryPages]
    dense: AttentionEngine | None = None
    """To measure the other against."""
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
        self, context: Context, engine: AttentionEngine, forced: Sequence[int], *, learnt_order: bool = False
    ) -> Decoded:
        """Runs ``forced`` after the context, one by one, each layer also with dense attention for the tally."""
        decode = _Decode(engine, self._pages(context, engine, learnt_order), DenseEngine())
        logits = torch.stack([self._step(decode, context, step, token) for step, token in enumerate(forced)])
        return Decoded(tuple(logits.argmax(-1).tolist()), logits, decode.tally)

    @torch.inference_mode()
    def answers(
        self,
        context: Context,
        engine: AttentionEngine,
        asked: int,
        answer: Sequence[int],
        *,
        learnt_order: bool = False,
    ) -> bool:
        """Whether greedy choice after the token ``asked`` gives ``answer``; ends with the first token that differs."""
        decode = _Decode(engine, self._pages(context, engine, learnt_order))
        given = (asked, *answer[:-1])
        return all(
            int(self._step(decode, context, step, token).argmax()) == right
            for step, (token, right) in enumerate(zip(given, answer, strict=True))
        )

    def _step(self, decode: _Decode, context: Context, step: int, token: int) -> Tensor:
        """Logits [vocabulary] of what follows ``token``, which is the ``step``-th behind the context."""
        self._decode = decode
        try:
            position = torch.tensor([[len(context.tokens) + step]])
            found = self.model(torch.tensor([[token]]), position_ids=position, use_cache=False).logits[0, -1]
        finally:
            self._decode = None
        assert isinstance(found, Tensor), "a model gives logits"
        return found

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
        found = _logged(decode.engine, heads, pages)
        if decode.dense is None:
            return torch.from_numpy(found.output)[None, None], None
        exact = _logged(decode.dense, heads, pages)
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
