"""Multi-head latent attention: what is cached of a token is one short latent, from which every head makes its own.

Keys and values of all heads are a linear map of the latent, except for a part of the key that carries the position and
is the same for all heads. So a head need not make keys of the latents: turning its query by the same map once lets it
meet them as they are (DeepSeek-V2, arXiv 2405.04434, section 2.1.2), and all heads read the same few bytes.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from offload.attention.partial import PartialAttention
from offload.kv.store import KVStore
from offload.kv.tiered_layer import TieredLayer
from tiers.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class LatentHeads:
    """``to_key`` [heads, key_dim, rank] and ``to_value`` [heads, value_dim, rank] make keys and values of a latent."""

    to_key: Tensor
    to_value: Tensor

    @classmethod
    def of(cls, module: Any) -> "LatentHeads":
        """Those of an attention module; views, good for as long as its weights stay where they are."""
        weight: Tensor = module.kv_b_proj.weight
        dims = [module.qk_nope_head_dim, module.v_head_dim]
        to_key, to_value = weight.view(-1, sum(dims), weight.shape[-1]).split(dims, 1)
        return cls(to_key, to_value)

    def ask(self, query: Tensor) -> Tensor:
        plain, rotated = query.split([self.to_key.shape[1], query.shape[-1] - self.to_key.shape[1]], -1)
        return torch.cat([torch.bmm(plain, self.to_key), rotated], -1)

    def tokens(self, store: KVStore, run: slice) -> tuple[Tensor, Tensor]:
        """The same tensor twice: a latent is both. What follows it in the values is cut off from the answer."""
        rows = store.rows[run].unsqueeze(1)
        return rows, rows

    def answer(self, part: PartialAttention) -> PartialAttention:
        latents = part.output[..., : self.to_value.shape[-1]].to(self.to_value.dtype)
        return replace(part, output=torch.bmm(latents, self.to_value.transpose(1, 2)))


def follow_latents(model: nn.Module) -> None:
    """Watch for latents on their way from the cache to where keys are made of them: keys and values bear no mark.

    Raises ModelError for latent attention of an unknown form.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "expand_kv"):
            continue
        projection = getattr(module, "kv_b_proj", None)
        is_known = all(hasattr(module, dim) for dim in ("qk_nope_head_dim", "v_head_dim"))
        if not is_known or not isinstance(projection, nn.Linear) or hasattr(projection.bias, "shape"):
            raise ModelError(f"{name} makes keys and values of latents in a way that is not supported")
        projection.register_forward_pre_hook(_note)


def take_latent_layer(module: nn.Module) -> TieredLayer | None:
    """The layer of the cache whose latents a module has just read, if it did; asked once for each pass."""
    projection: Any = getattr(module, "kv_b_proj", None)
    layer = getattr(projection, "kv_layer", None)
    if layer is not None:
        projection.kv_layer = None
    return cast("TieredLayer | None", layer)


def _note(projection: Any, args: tuple[Any, ...]) -> None:
    projection.kv_layer = getattr(args[0], "kv_layer", None)
