"""What a packed store says of experts that it keeps in fewer bits: how, and at what loss."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tiers.errors import ModelError

_FILE = "offload_experts.json"


@dataclass(frozen=True, slots=True)
class ExpertNote:
    """``relative_error`` is that of the weights, root mean squares, in the mean over one expert of each layer.

    The perplexities are of the checkpoint and of the packed store, on the same ``num_tokens`` tokens of text; None and
    0 where nobody measured them.
    """

    precision: str
    relative_error: float
    perplexity_stored: float | None = None
    perplexity: float | None = None
    num_tokens: int = 0

    def save(self, directory: Path) -> None:
        """Write it into a packed store."""
        (directory / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """None for a model that keeps its experts as they were. Raises ModelError where the file is damaged."""
        try:
            return cls(**json.loads((directory / _FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{directory / _FILE}: cannot be read ({error}); pack the model again") from None

    def __str__(self) -> str:
        text = f"experts in {self.precision}: weights differ by {self.relative_error:.1%}"
        if self.perplexity is None or self.perplexity_stored is None:
            return f"{text}, loss of quality not measured"
        return f"{text}, perplexity {self.perplexity_stored:.2f} -> {self.perplexity:.2f} on {self.num_tokens} tokens"
