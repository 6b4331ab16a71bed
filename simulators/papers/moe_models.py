"""The mixtures of MoE-Infinity's tables: what of them a decode step reads, and what of them Transformers calls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MoE:
    """What of a model its decoder uses. Sizes are those of the type in which the paper says that it was run."""

    name: str
    layers: int
    """Of the decoder."""
    moe_layers: int
    """Of these, those with experts."""
    experts: int
    top_k: int
    expert_nbytes: float
    resident_nbytes: float
    """All but experts; on the device."""
    decoder_nbytes: float
    """Of these, what a decode step reads: no encoder, and no keys and values for what the encoder left."""
    called: int
    """Experts of a layer that the model's code runs for one token: some code runs all of them, most on no token."""
    expert_matrices: int
    other_matrices: int
    """Of a decode step, besides experts, those of more than 100,000 numbers."""

    @property
    def active_nbytes(self) -> float:
        """What one token is computed with."""
        return self.decoder_nbytes + self.moe_layers * self.top_k * self.expert_nbytes

    @property
    def called_nbytes(self) -> float:
        """What one token is computed with by the model's code in Transformers."""
        return self.decoder_nbytes + self.moe_layers * self.called * self.expert_nbytes

    @property
    def called_matrices(self) -> int:
        """The matrices that this is made of."""
        return self.other_matrices + self.moe_layers * self.called * self.expert_matrices


# The code of the first two skips experts without a token; that of the others calls each with the tokens it has, if any
# (Transformers at the beginning of 2024, and the code that comes with DeepSeek-V2-Lite).
DEEPSEEK = MoE("DeepSeek-V2-Lite", 27, 26, 64, 6, 17.3e6, 2.6e9, 2.6e9, 6, 3, 4 * 27 + 3 + 4 * 26 + 2)
MIXTRAL = MoE("Mixtral-8x7B", 32, 32, 8, 2, 352.3e6, 3.2e9, 3.2e9, 2, 3, 4 * 32 + 2)
SWITCH = MoE("Switch-large-128", 24, 12, 128, 1, 33.5e6, 2.4e9, 1.14e9, 128, 2, 6 * 24 + 2 * 12 + 12 + 1)
NLLB = MoE("NLLB-MoE-54B", 24, 6, 128, 2, 134.2e6, 11.8e9, 6.93e9, 128, 2, 6 * 24 + 2 * 18 + 6 + 1)
