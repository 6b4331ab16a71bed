"""What several test folders share: the small models, and the rule that no test reaches for the network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TINY_VOCABULARY = 512
_TEXT = Path(__file__).parents[1] / "LICENSE"


@pytest.fixture(scope="session", autouse=True)
def _no_profile_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What ``offload doctor`` once measured here would make other plans than those that tests expect.

    Prepared models are kept beside it, and stay in reach.
    """
    from offload.zoo import default_cache

    models = default_cache() / "models"
    models.mkdir(parents=True, exist_ok=True)
    caches = tmp_path_factory.mktemp("caches")
    (caches / "offload-runtime").mkdir()
    (caches / "offload-runtime" / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(caches))
        yield


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a seeded random float32 Llama of four layers, tied embeddings and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        # The usual 0.02 makes a random model that repeats its last token whatever it attends to.
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    _save_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of the small real model, SmolLM2-135M, that ``make setup`` prepares."""
    from offload.zoo import resolve_model
    from tiers.errors import ModelError

    try:
        return resolve_model("smollm2-135m")
    except ModelError as error:
        pytest.skip(str(error))


def _save_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(_TEXT)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(path)
