"""What is seen of a generation while it goes on: counters, text and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from offload.meter import Reading
from offload.offloaded_model import OffloadedModel
from offload.requests import Tokenizer


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is. ``tiers`` maps a tier to the bytes in use and the bytes that it may use."""

    phase: str
    new_tokens: int
    max_new_tokens: int
    elapsed_s: float
    tokens_per_s: float
    tiers: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Progress:
    """New tokens of the batches before this one, and of all batches, of each row."""

    before: int
    in_all: int


class RunObserver(BaseStreamer):
    """Reads the counters when tokens appear; ``generate`` calls ``put`` with the prompt first, then for each step."""

    def __init__(
        self,
        model: OffloadedModel,
        tokenizer: Tokenizer,
        progress: Progress,
        on_text: Callable[[str], None] | None,
        on_status: Callable[[Status], None] | None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._progress = progress
        self._on_text = on_text
        self._on_status = on_status
        self._shown = ""
        self._ids: list[int] = []
        self.readings: list[Reading] = []
        """At the start, at the first token, and at the latest one."""

    def put(self, value: Tensor) -> None:
        self.readings = [*self.readings[:2], Reading.of(self._model.runtime)]
        if len(self.readings) > 1:
            self._ids.append(int(value.reshape(-1)[0]))
            self._show_text()
        self._show_status("decode" if len(self.readings) > 1 else "prefill")

    def end(self) -> None:
        if self._on_text:
            self._on_text(self._decoded()[len(self._shown) :])

    def _show_text(self) -> None:
        if not self._on_text:
            return
        text = self._decoded()
        if not text.endswith("\ufffd"):  # a character may take several tokens
            self._on_text(text[len(self._shown) :])
            self._shown = text

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _show_status(self, phase: str) -> None:
        if not self._on_status:
            return
        runtime = self._model.runtime
        now = self.readings[-1].time_s
        first = self.readings[min(1, len(self.readings) - 1)].time_s
        steps = max(0, len(self._ids) - 1)
        self._on_status(
            Status(
                phase,
                self._progress.before + len(self._ids),
                self._progress.in_all,
                now - self.readings[0].time_s,
                steps / (now - first) if steps else 0.0,
                runtime.tier_occupancy(),
            )
        )
