"""Models whose positions depend on the length of the whole sequence."""

from transformers import PreTrainedConfig

from tiers.errors import InvalidOptionError


def check_pieces(config: PreTrainedConfig, prompt_tokens: int, chunk_tokens: int | None) -> None:
    """Raises InvalidOptionError for a prompt that would get other positions in pieces than as a whole.

    Dynamic and long RoPE choose their frequencies by the length that they have seen so far: the first pieces of a long
    prompt would get those of a short one.
    """
    if chunk_tokens is None or prompt_tokens <= chunk_tokens:
        return
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        kind = rope.get("rope_type")
        longest = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        if kind in ("dynamic", "longrope") and prompt_tokens > longest:
            raise InvalidOptionError(
                f"a prompt of {prompt_tokens} tokens does not fit in one piece, and beyond {longest} tokens the "
                f"positions of this model ('{kind}') allow no pieces; shorten it or raise --device-memory"
            )
