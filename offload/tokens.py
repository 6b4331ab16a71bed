"""From text to token ids of a model."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tiers.errors import InvalidOptionError, ModelError


def load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's directory; raises ModelError."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        if not (model / "config.json").is_file():
            raise ModelError(f"{model}: no config.json in it; give a Hugging Face model directory") from None
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{model}: its tokenizer cannot be loaded ({reason}); get the model again") from None
    return tokenizer


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, limit: int | None) -> list[int]:
    """The tokens of a text, or the first ``limit`` of them without encoding all of a long one."""
    length = len(text) if limit is None else 16 * limit
    while True:
        ids: list[int] = tokenizer(text[:length], verbose=False).input_ids
        # Twice as many as wanted: the last ones before a cut may not be those of the whole text.
        if limit is None or length >= len(text) or len(ids) >= 2 * limit:
            return ids
        length *= 2


def check_ids(ids: list[int], vocabulary: int) -> None:
    """Raises InvalidOptionError for a token that is not of the model's vocabulary."""
    unknown = next((token for token in ids if not 0 <= token < vocabulary), None)
    if unknown is not None:
        raise InvalidOptionError(f"token id {unknown} is not in the vocabulary of {vocabulary}; is it another model's?")
