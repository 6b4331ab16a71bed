"""What a run is asked to continue: one prompt, or several, and which of them run side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from offload.numbers import Numbers, parse_ids
from offload.tokens import first_tokens
from prefetch.request_batches import Batches, arrival_batches, likely_paths, path_batches
from prefetch.routing_path import RoutingPath
from tiers.errors import InvalidOptionError

Tokenizer = PreTrainedTokenizerBase | Numbers
LoadPaths = Callable[[], RoutingPath]


@dataclass(frozen=True, slots=True)
class Requests:
    """``ids[i]`` are the tokens of a prompt; ``batches`` holds their indices, those of one run side by side."""

    ids: list[list[int]]
    batches: Batches
    are_many: bool = True
    """Whether they are several prompts, and not one that runs several times."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.ids))

    def inputs(self, members: Sequence[int], pad: int) -> tuple[Tensor, Tensor]:
        """Tokens and attention mask of a batch, each [members, tokens]: shorter prompts have ``pad`` on their left."""
        width = max(len(self.ids[i]) for i in members)
        rows = [[pad] * (width - len(self.ids[i])) + self.ids[i] for i in members]
        mask = [[0] * (width - len(self.ids[i])) + [1] * len(self.ids[i]) for i in members]
        return torch.tensor(rows), torch.tensor(mask)


def read_requests(
    tokenizer: Tokenizer,
    prompt: str | None,
    prompt_ids: Sequence[int] | None,
    prompts: Sequence[str] | None,
    *,
    limit: int | None,
    batch: int,
    paths: LoadPaths | None,
) -> Requests:
    """One prompt ``batch`` times, or several ``prompts``, so many at a time; of each its first ``limit`` tokens.

    With ``paths``, prompts that are foreseen to need the same experts run side by side, as ExpertFlow's scheduler has
    it; else they run as they came. Without a tokenizer the ``prompts`` are lists of token ids. Raises
    InvalidOptionError, and what ``paths`` raises.
    """
    if sum(given is not None for given in (prompt, prompt_ids, prompts)) != 1:
        raise InvalidOptionError("give one prompt, either as text or as token ids, or several prompts")
    if prompts is not None:
        return _many(tokenizer, prompts, limit, batch, paths)
    if prompt_ids is not None or isinstance(tokenizer, Numbers):
        ids = list(prompt_ids or ())
    else:
        ids = first_tokens(tokenizer, prompt or "", limit)
    _check_filled([ids])
    return Requests([ids[:limit]] * batch, [list(range(batch))], are_many=False)


def _many(
    tokenizer: Tokenizer, prompts: Sequence[str], limit: int | None, batch: int, paths: LoadPaths | None
) -> Requests:
    if isinstance(tokenizer, Numbers):
        ids = [parse_ids("--prompts", prompt)[:limit] for prompt in prompts]
    else:
        ids = [first_tokens(tokenizer, prompt, limit)[:limit] for prompt in prompts]
    _check_filled(ids)
    if paths is None or not 1 < batch < len(ids):
        return Requests(ids, arrival_batches(len(ids), batch))
    foreseen = paths()
    shares = np.stack([foreseen.begin(np.array([one]), 0).mean(axis=0) for one in ids])
    return Requests(ids, path_batches(likely_paths(shares, foreseen.file.top_k), batch))


def predicted_paths(predictor: str, fingerprint: Callable[[], str]) -> LoadPaths | None:
    """Loads the paths of ``RunConfig.predictor`` where that is the file of a trained one; None for any other."""
    path = Path(predictor)
    return (lambda: RoutingPath.load(path, fingerprint())) if path.suffix == ".npz" else None


def _check_filled(ids: Sequence[Sequence[int]]) -> None:
    if not ids or not all(ids):
        raise InvalidOptionError("the prompt is empty; give at least one character")
