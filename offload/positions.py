"""Models whose positions depend on the length of the whole sequence."""

from dataclasses import dataclass

from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel

from tiers.errors import InvalidOptionError

CHANGING = ("dynamic", "longrope")
"""RoPE that chooses its frequencies by the length that it has seen so far."""


@dataclass(frozen=True, slots=True)
class Positions:
    """What changes where a sequence grows beyond ``longest`` tokens; None where nothing does.

    ``is_changing``: new tokens get other frequencies, so that the first pieces of a long prompt would get those of a
    short one. ``begins_again``: a sequence that grows beyond it is computed again from its first token, in one piece,
    as Phi-3 and its kin do.
    """

    longest: int | None = None
    is_changing: bool = False
    begins_again: bool = False

    @classmethod
    def of(cls, config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> "Positions":
        """Those of a model; ``model_class`` is its class in transformers."""
        borders = changing_beyond(config)
        again = getattr(config, "original_max_position_embeddings", None)
        prepares = getattr(model_class, "prepare_inputs_for_generation", None)
        if again is None or prepares is GenerationMixin.prepare_inputs_for_generation:
            return cls(min(borders, default=None), is_changing=bool(borders))
        return cls(min([*borders, again]), is_changing=bool(borders), begins_again=True)

    def uncut_tokens(self, prompt_tokens: int, new_tokens: int, held: int = 0) -> int:
        """How many tokens have to be taken at once; 0 where pieces of any length will do.

        ``prompt_tokens`` are those of the whole prompt, of which a cache holds ``held`` already.
        """
        if self.longest is None:
            return 0
        if prompt_tokens > self.longest:
            if self.begins_again and 0 < held <= self.longest:
                return prompt_tokens
            return prompt_tokens - held if self.is_changing else 0
        # The last new token is not read any more.
        is_outgrown = prompt_tokens + new_tokens > self.longest + 1
        return self.longest + 1 if self.begins_again and is_outgrown else 0

    def check_pieces(self, chunk_tokens: int | None, prompt_tokens: int, new_tokens: int, held: int = 0) -> None:
        """Raises InvalidOptionError where pieces of ``chunk_tokens`` would make other tokens than a whole prompt."""
        uncut = self.uncut_tokens(prompt_tokens, new_tokens, held)
        if chunk_tokens is None or uncut <= chunk_tokens:
            return
        assert self.longest is not None, "or else pieces of any length will do"
        if prompt_tokens > self.longest:
            raise InvalidOptionError(
                f"a prompt of {prompt_tokens} tokens does not fit in one piece of {chunk_tokens}, and beyond "
                f"{self.longest} the positions of this model allow no pieces; shorten it or raise --device-memory"
            )
        raise InvalidOptionError(
            f"{prompt_tokens} tokens and {new_tokens} new: beyond {self.longest} tokens this model begins the sequence "
            f"again, which does not fit in one piece of {chunk_tokens}; ask for at most "
            f"{self.longest + 1 - prompt_tokens} new tokens or raise --device-memory"
        )


def changing_beyond(config: PreTrainedConfig) -> list[int]:
    """The lengths beyond which the frequencies of a model's RoPE are others, one for each kind of its layers."""
    kinds = getattr(config, "rope_parameters", None) or {}
    ropes = (kinds, *(rope for rope in kinds.values() if isinstance(rope, dict)))
    borders = []
    for rope in ropes:
        if rope.get("rope_type") == "longrope":
            borders.append(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif rope.get("rope_type") == "dynamic":
            borders.append(config.max_position_embeddings)
    return borders


def longest_context(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model is meant for, None where its configuration does not say.

    Dynamic RoPE is there to go beyond ``max_position_embeddings``, by its factor.
    """
    longest = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if longest is not None and rope.get("rope_type") == "dynamic":
        return int(longest * max(1.0, rope.get("factor") or 1.0))
    return longest
