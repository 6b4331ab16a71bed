"""What an offloaded model adds to its transformers class: a KV cache within the budget, by default."""

from typing import Any

from transformers import GenerationMixin, PreTrainedModel

from offload.kv.cache import TieredCache
from offload.plan import Plan
from offload.runtime import Runtime
from offload.weights.vocabulary import TieredEmbedding


class OffloadedModel(PreTrainedModel, GenerationMixin):
    """Mixed in before the transformers class of a model. ``close`` gives all memory and disk space back."""

    runtime: Runtime

    @property
    def plan(self) -> Plan:
        """What sits where, and the predicted speed."""
        return self.runtime.plan

    def new_cache(self) -> TieredCache:
        """An empty KV cache for ``past_key_values``, for conversations that outlive a call of ``generate``."""
        return TieredCache(self.runtime.kv, self.config)

    def generate(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        """As in transformers. A cache of our own is made, and given back at the end, unless one is passed."""
        if kwargs.get("generation_config") is None:
            kwargs.setdefault("prefill_chunk_size", self.runtime.prefill_chunk_tokens)
        if past_key_values is not None or kwargs.get("use_cache") is False:
            return self._generate(*args, past_key_values=past_key_values, **kwargs)
        if kwargs.get("return_dict_in_generate"):
            # The caller gets the cache in the answer, and with it the duty to close it.
            return self._generate(*args, past_key_values=self.new_cache(), **kwargs)
        with self.new_cache() as cache:
            return self._generate(*args, past_key_values=cache, **kwargs)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        # transformers types ``self`` here as a union of classes of its own.
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        """Stop all transfers and give memory and disk space back; the model cannot be used afterwards."""
        embedding = self.get_input_embeddings()
        if isinstance(embedding, TieredEmbedding):
            embedding.close()
        self.runtime.close()
