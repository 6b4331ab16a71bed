"""What transformers before 5.21 gets wrong, and is refused there rather than answered with other tokens."""

import transformers
from packaging.version import Version
from transformers import PreTrainedConfig, PreTrainedModel

from offload.positions import Positions
from tiers.errors import InvalidOptionError, ModelError

_SOUND = Version("5.21")
_INSTALLED = transformers.__version__


def is_old() -> bool:
    """Whether the transformers that is installed has the defects below."""
    return Version(_INSTALLED) < _SOUND


def pieces_after(held: int, new: int, chunk_tokens: int) -> int | None:
    """In pieces of how many tokens to take ``new`` ones after the ``held`` ones of a cache; None for all at once.

    Raises InvalidOptionError for several pieces on an old version: it counts their tokens from zero, whatever the cache
    holds.
    """
    if new <= chunk_tokens:
        return None
    if is_old():
        raise InvalidOptionError(
            f"past_key_values: {new} tokens after the {held} in the cache do not fit in one piece of {chunk_tokens}; "
            f"{_cure()}, which continues a cache in pieces, pass a new cache or raise --device-memory"
        )
    return chunk_tokens


def check_long_positions(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """Raises ModelError for Phi-3 and its kin, which may outgrow their original context, on an old version.

    There they begin the sequence again, by a ``prepare_inputs_for_generation`` of their own; old ones begin with the
    last token alone.
    """
    positions = Positions.of(config, model_class)
    longest = positions.longest
    if positions.begins_again and longest is not None and config.max_position_embeddings > longest and is_old():
        raise ModelError(f"sequences beyond its original context of {longest} tokens go wrong; {_cure()}")


def _cure() -> str:
    return f"upgrade transformers {_INSTALLED} to {_SOUND} or later"
