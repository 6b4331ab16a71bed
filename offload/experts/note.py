"""What a packed store says of experts that it keeps in fewer bits: how, and at what loss."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tiers.errors import ModelError

_FILE = "offload_experts.json"


@dataclass(frozen=True, slots=True)
class LowNote:
    """The copies in a lower precision, used wherever they may be: the most that can be lost by them.

    ``perplexity_decode`` is that of a text taken token by token, ``perplexity_prompt`` that of one taken in pieces;
    None where nobody measured them.
    """

    precision: str
    relative_error: float
    perplexity_decode: float | None = None
    perplexity_prompt: float | None = None

    def __str__(self) -> str:
        text = f"in {self.precision} where they add little: weights differ by {self.relative_error:.1%}"
        if self.perplexity_decode is None or self.perplexity_prompt is None:
            return f"{text}, loss of quality not measured"
        return f"{text}, perplexity at worst {self.perplexity_decode:.2f}, of a prompt {self.perplexity_prompt:.2f}"


@dataclass(frozen=True, slots=True)
class ExpertNote:
    """``relative_error`` is that of the weights, root mean squares, in the mean over one expert of each layer.

    The perplexities are of the checkpoint and of the packed store, on the same ``num_tokens`` tokens of text; None and
    0 where nobody measured them. ``low`` tells of copies in a lower precision, of which the others say nothing.
    """

    precision: str
    relative_error: float
    perplexity_stored: float | None = None
    perplexity: float | None = None
    num_tokens: int = 0
    low: LowNote | None = None

    def save(self, directory: Path) -> None:
        """Write it into a packed store."""
        (directory / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """None for a model that keeps its experts as they were. Raises ModelError where the file is damaged."""
        try:
            found = json.loads((directory / _FILE).read_text(encoding="utf-8"))
            low = found.pop("low", None)
            return cls(**found, low=LowNote(**low) if low else None)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{directory / _FILE}: cannot be read ({error}); pack the model again") from None

    def told(self, *, with_low: bool) -> str:
        """What to say of a run; ``with_low`` if copies in the lower precision may be used."""
        return f"{self}; {self.low}" if with_low and self.low else str(self)

    def __str__(self) -> str:
        text = f"experts in {self.precision}: weights differ by {self.relative_error:.1%}"
        if self.perplexity is None or self.perplexity_stored is None:
            return f"{text}, loss of quality not measured"
        return f"{text}, perplexity {self.perplexity_stored:.2f} -> {self.perplexity:.2f} on {self.num_tokens} tokens"
