"""Multi-head latent attention in numbers (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Widths, in numbers: what is cached of a token is one latent for all heads, and a key part with its position."""

    rank: int
    """Of the latent from which each head makes its keys and values."""
    rotated: int
    """Of the part of keys and queries that carries the position; all heads share that of the keys."""
    plain: int
    """Of each head's part of keys and queries that does not."""
    value: int
    """Of each head's values."""
    query_rank: int = 0
    """Of the latent from which queries are made; 0 where they are made of the input itself."""

    @property
    def values_per_token(self) -> int:
        """What one layer caches of a token."""
        return self.rank + self.rotated

    def weights(self, hidden: int, heads: int) -> int:
        """Of one layer's attention: queries, latents, what is made of latents, and the output."""
        queries = heads * (self.plain + self.rotated)
        asked = (hidden + queries) * self.query_rank if self.query_rank else hidden * queries
        return asked + hidden * self.values_per_token + self._expanding(heads) + heads * self.value * hidden

    def flops(self, heads: int, pairs: float, context: int) -> float:
        """Of scores and weighted values over ``pairs`` of tokens, ``context`` tokens of which are latents in the cache.

        Keys and values of these are made first, as suits a prompt, or queries meet the latents themselves, as suits a
        single token (section 2.1.2): whichever takes less.
        """
        made = 2.0 * heads * (self.plain + self.rotated + self.value) * pairs + 2.0 * self._expanding(heads) * context
        return min(made, 2.0 * heads * (2 * self.rank + self.rotated) * pairs)

    def _expanding(self, heads: int) -> int:
        return self.rank * heads * (self.plain + self.value)
