"""Attention through a cache, and what it has to come to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Qwen2Config

from offload.attention.interface import blockwise_attention
from offload.attention.padding import padding_mask
from offload.attention.partial import attend_by_definition
from offload.kv.cache import TieredCache
from tests.offload.kv.kit import DIM, HEADS

QUERY_HEADS = 2 * HEADS
MODULE = nn.Module().eval()


def make_config(windows: Sequence[int | None]) -> Qwen2Config:
    """Of these windows one at a time is real: a configuration has a single one."""
    sizes = {window for window in windows if window is not None}
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return Qwen2Config(
        num_hidden_layers=len(windows),
        layer_types=kinds,
        sliding_window=sizes.pop() if sizes else None,
        use_sliding_window=True,
    )


class Sequences:
    """Random queries, keys and values of a batch in several layers, and what attention over all of them gives."""

    def __init__(self, batch: int, total: int, windows: Sequence[int | None], visible: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.windows = windows
        self.visible = visible
        self.query = torch.randn(len(windows), batch, QUERY_HEADS, total, DIM, generator=generator)
        self.key = torch.randn(len(windows), batch, HEADS, total, DIM, generator=generator)
        self.value = torch.randn(len(windows), batch, HEADS, total, DIM, generator=generator)

    def forward(self, cache: TieredCache | None, start: int, stop: int) -> list[Tensor]:
        """One pass: tokens ``start .. stop - 1`` through all layers; returns what attention gave in each."""
        padding = padding_mask(kv_length=stop, attention_mask=self.visible[:, :stop])
        outputs = []
        for layer, window in enumerate(self.windows):
            key, value = self.key[layer, :, :, start:stop].clone(), self.value[layer, :, :, start:stop].clone()
            if cache is not None:
                key, value = cache.update(key, value, layer)
            query = self.query[layer, :, :, start:stop]
            outputs.append(blockwise_attention(MODULE, query, key, value, padding, 0.4, sliding_window=window)[0])
        return outputs

    def expected(self, layer: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The attention outputs [batch, queries, heads, dim], and which of the queries are real tokens."""
        window = self.windows[layer]
        distance = torch.arange(stop).unsqueeze(1) - torch.arange(stop)
        seen = (distance >= 0) & (distance < (window or stop)) & self.visible[:, None, None, :stop]
        keys, values = (t[layer, :, :, :stop].repeat_interleave(2, 1) for t in (self.key, self.value))
        output, _ = attend_by_definition(self.query[layer, :, :, :stop], keys, values, 0.4, is_causal=False, mask=seen)
        return output[:, :, start:stop].transpose(1, 2), self.visible[:, start:stop]

    def check(self, outputs: list[Tensor], start: int, stop: int) -> None:
        for layer, output in enumerate(outputs):
            expected, is_real = self.expected(layer, start, stop)
            assert not output.isnan().any()
            torch.testing.assert_close(output[is_real], expected[is_real], atol=1e-5, rtol=1e-4)
