"""From trace files to a predictor file and its scores: what ``offload train-predictor`` does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offload.predictor_training.embeddings import read_embeddings
from offload.predictor_training.lessons import check_subject, join_traces, sequence_pieces, split_pieces
from offload.predictor_training.scores import score
from offload.predictor_training.train import Course, Progress, train
from prefetch.routing_path import RoutingPath
from simulators.expert_trace import ExpertTrace
from simulators.trace_statistics import chosen_experts
from tiers.errors import TraceError


def train_from_files(
    traces: Sequence[Path],
    out: Path,
    course: Course,
    *,
    model: Path | None = None,
    test: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train from ``traces``, write ``out``, and score on ``test`` or, without it, on the last eighth of the traces.

    ``model`` lends its embeddings. Raises TraceError, ModelError, InvalidOptionError.
    """
    start = time.perf_counter()
    trace = join_traces([ExpertTrace.load(path) for path in traces])
    if test is None:
        tested = trace
        pieces, held_out = split_pieces(sequence_pieces(trace))
    else:
        tested = ExpertTrace.load(test)
        check_subject(tested, trace)
        pieces, held_out = sequence_pieces(trace), sequence_pieces(tested)
    if not pieces or not held_out:
        raise TraceError("a trace has no tokens; record it again")
    embeddings = None if model is None else read_embeddings(model, trace.model)
    file = train(trace, pieces, course, embeddings=embeddings, progress=progress)
    file.save(out)
    places = np.concatenate(pieces)
    popularity = chosen_experts(trace)[places].mean(axis=0)
    return {
        "out": out,
        "kind": course.shape.kind,
        "steps": course.steps,
        "seconds": time.perf_counter() - start,
        "bytes": out.stat().st_size,
        "tokens": len(places),
        **score(RoutingPath(file), tested, held_out, popularity),
    }
