"""What an offloaded model adds to its transformers class: a KV cache within the budget, by default."""

import copy
from typing import Any

from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedModel

from offload.device import broken_device
from offload.kv.cache import TieredCache
from offload.old_transformers import pieces_after
from offload.plan import Plan
from offload.positions import Positions
from offload.runtime import Runtime
from offload.starvation import StarvedError, ToldOnce, give_back_cached_memory, smaller_pieces, starved
from offload.weights.vocabulary import TieredEmbedding
from tiers.errors import InvalidOptionError

_DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
"""Options of ``generate`` by which others draft tokens and the model only checks them."""

_DEFAULT_NEW_TOKENS = 20
"""How many tokens transformers adds if it is told neither how many nor up to what length."""


class OffloadedModel(PreTrainedModel, GenerationMixin):
    """Mixed in before the transformers class of a model. ``close`` gives all memory and disk space back."""

    runtime: Runtime
    positions: Positions

    @property
    def plan(self) -> Plan:
        """What sits where, and the predicted speed."""
        return self.runtime.plan

    def new_cache(self) -> TieredCache:
        """An empty KV cache for ``past_key_values``, for conversations that outlive a call of ``generate``."""
        return TieredCache(self.runtime.kv, self.config, self.runtime.drives)

    def check_cache(self, cache: Cache) -> None:
        """Raises InvalidOptionError for a cache of another kind or of another model."""
        if not isinstance(cache, TieredCache) or cache.store is not self.runtime.kv:
            raise InvalidOptionError(
                f"past_key_values: {type(cache).__name__} is not a cache of this model; "
                "pass model.new_cache() or nothing"
            )

    def prepare_inputs_for_generation(  # type: ignore[override]  # models have signatures of their own here too
        self,
        input_ids: Any,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; a sequence that it begins again for other positions does so in the blocks it has."""
        # transformers types ``self`` here as a union of classes of its own.
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs
        )
        if isinstance(past_key_values, TieredCache) and prepared.get("past_key_values") is None:
            past_key_values.close()
            prepared["past_key_values"] = past_key_values
        return prepared

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, with a cache of our own unless one from ``new_cache`` is passed.

        Its blocks are given back at the end; with ``return_dict_in_generate`` they live as long as the cache that is
        part of the answer. Where memory for the activations of a prompt runs short it is taken in smaller pieces, from
        then on. Raises InvalidOptionError for a cache of another kind: it would not keep within the budget; TierError
        where memory runs short all the same, with which this request ends and no other, and where CUDA itself fails.
        """
        if implementation := self._option("cache_implementation", kwargs, generation_config):
            raise InvalidOptionError(
                f"cache_implementation={implementation!r}: the KV cache of this model is in tiers; leave the option out"
            )
        if past_key_values is not None:
            self.check_cache(past_key_values)
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        drafts = [name for name in _DRAFTS if self._option(name, kwargs, generation_config)]
        if held and drafts:
            raise InvalidOptionError(
                f"{drafts[0]}: transformers would add all of the prompt to the {held} tokens in past_key_values; leave "
                "the option out or pass a new cache"
            )
        uses_cache = self._option("use_cache", kwargs, generation_config) is not False
        chunk = self._chunk_tokens(inputs, kwargs, generation_config, held) if uses_cache else None
        if generation_config is not None:
            generation_config = copy.deepcopy(generation_config)
            generation_config.prefill_chunk_size = chunk
            kwargs.pop("prefill_chunk_size", None)
        else:
            kwargs["prefill_chunk_size"] = chunk
        if past_key_values is not None or not uses_cache:
            return self._generate(inputs, generation_config, *args, past_key_values=past_key_values, **kwargs)
        told: ToldOnce | None = None
        if kwargs.get("streamer") is not None:
            told = kwargs["streamer"] = ToldOnce(kwargs["streamer"])
        while True:
            answer, smaller = self._attempt(inputs, generation_config, args, kwargs, chunk)
            if smaller is None:
                return answer
            give_back_cached_memory()
            chunk = smaller
            # A caller may have asked for larger pieces than the plan has; later requests keep to the smaller ones.
            self.runtime.prefill_chunk_tokens = min(chunk, self.runtime.prefill_chunk_tokens or chunk)
            (kwargs if generation_config is None else vars(generation_config))["prefill_chunk_size"] = chunk
            if told is not None:
                told.again()

    def _attempt(
        self,
        inputs: Tensor | None,
        generation_config: GenerationConfig | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        chunk: int | None,
    ) -> tuple[Any, int | None]:
        """An answer and None, or None and the size of the pieces with which to begin again; raises if neither helps."""
        cache, answer = self.new_cache(), None
        try:
            answer = self._generate(inputs, generation_config, *args, past_key_values=cache, **kwargs)
        except StarvedError:
            prompt, told = inputs if inputs is not None else kwargs.get("input_ids"), kwargs.get("streamer")
            # Whoever drafts has the prompt taken whole, whatever the size of pieces.
            drafts = any(self._option(name, kwargs, generation_config) for name in _DRAFTS)
            if prompt is None or args or drafts:
                raise
            if cache.get_seq_length() > prompt.shape[1] or (told and told.has_tokens):
                raise
            block_tokens = self.runtime.kv.layout.block_tokens
            new = self._new_tokens(prompt.shape[1], kwargs, generation_config)
            smaller = smaller_pieces(self.positions, prompt.shape[1], new, chunk, block_tokens)
            if smaller is None:
                raise
            return None, smaller
        finally:
            if answer is None or isinstance(answer, Tensor):
                cache.close()
        return answer, None

    def close(self) -> None:
        """Stop all transfers and give memory and disk space back; the model cannot be used afterwards."""
        embedding = self.get_input_embeddings()
        if isinstance(embedding, TieredEmbedding):
            embedding.close()
        self.runtime.close()

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            # transformers types ``self`` here as a union of classes of its own.
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        except RuntimeError as error:
            found = starved(error) or broken_device(error)
            if found is None:
                raise
        # Out here, where the frames that hold the activations there were are gone.
        raise found

    def _option(self, name: str, kwargs: dict[str, Any], given: GenerationConfig | None) -> Any:
        """An option of this call of ``generate`` as transformers will find it."""
        places = (kwargs, *(vars(config) for config in (given, self.generation_config) if config is not None))
        return next((place[name] for place in places if place.get(name) is not None), None)

    def _chunk_tokens(
        self, inputs: Tensor | None, kwargs: dict[str, Any], given: GenerationConfig | None, held: int
    ) -> int | None:
        """In pieces of how many tokens to take the prompt, of which the cache holds ``held`` tokens already."""
        chosen: int | None = self._option("prefill_chunk_size", kwargs, given)
        # With an assistant transformers takes the prompt whole, and would have the assistant take pieces.
        if kwargs.get("assistant_model") is None:
            chosen = chosen or self.runtime.prefill_chunk_tokens
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is not None and chosen is not None:
            if embeddings.shape[1] > chosen:
                raise InvalidOptionError(
                    f"inputs_embeds of {embeddings.shape[1]} tokens: this budget takes {chosen} at a time, which only "
                    "input_ids allow; pass those or raise --device-memory"
                )
            return None
        prompt = inputs if inputs is not None else kwargs.get("input_ids")
        if prompt is None or chosen is None:
            return chosen
        mask = kwargs.get("attention_mask")
        is_whole = mask is None or mask.shape[1] == prompt.shape[1]
        tokens = prompt.shape[1] if is_whole else held + prompt.shape[1]
        new = self._new_tokens(tokens, kwargs, given)
        self.positions.check_pieces(chosen, tokens, new, held)
        # What is computed again from its first token is not cut up either.
        return pieces_after(held, tokens - held, chosen) if held else chosen

    def _new_tokens(self, prompt_tokens: int, kwargs: dict[str, Any], given: GenerationConfig | None) -> int:
        """How many tokens this call of ``generate`` adds at most."""
        new: int | None = self._option("max_new_tokens", kwargs, given)
        if new is not None:
            return new
        left = (self._option("max_length", kwargs, given) or 0) - prompt_tokens
        return left if left > 0 else _DEFAULT_NEW_TOKENS


def give_cache(
    model: OffloadedModel, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[tuple[object, ...], dict[str, Any]]:
    """A forward pre-hook: a cache of our own where transformers would make one, and no other than that.

    Raises InvalidOptionError for a cache of another kind or of another model.
    """
    caches = [given for given in (*args, kwargs.get("past_key_values")) if isinstance(given, Cache)]
    if not caches:
        uses_cache = kwargs.get("use_cache")
        if model.config.use_cache if uses_cache is None else uses_cache:
            kwargs["past_key_values"] = model.new_cache()
    else:
        model.check_cache(caches[0])
    return args, kwargs
