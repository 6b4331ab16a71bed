"""What attention asks for, in numbers per token. Pure: values only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a token leaves in the cache of one layer: ``heads`` keys of ``key_dim`` numbers, values of ``value_dim``.

    With latent attention that is one head: its key is the latent, its value the part of the key that has a position.
    """

    heads: int
    key_dim: int
    value_dim: int

    @property
    def values_per_token(self) -> int:
        return self.heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Attention in the widest layer. ``kv`` is what is cached, the others what is computed with: heads times width.

    ``latent`` is what a query is turned into to meet the latents of the cache, 0 where keys are cached as they are.
    """

    kv: KVShape
    query: int
    key: int
    value: int
    output: int
    latent: int = 0

    @property
    def activations(self) -> int:
        """Numbers alive per token, counted as if all were alive at once.

        Queries and keys before and after rotation, values, and the output. Where there are latents, also queries and
        outputs of that width, and values as wide as keys, as the kernel wants them.
        """
        widened = self.key if self.latent else 0
        return 2 * self.query + 2 * self.key + self.value + self.output + 2 * self.latent + widened

    @property
    def flops_per_pair(self) -> float:
        """For one query token against one cached one in one layer."""
        return 4.0 * self.latent if self.latent else 2.0 * (self.query + self.output)
