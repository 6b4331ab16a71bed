"""One timed generation by llama.cpp, in a process of its own: ``python -m offload.bench.llama_cpp_run SPEC``.

As ``expert_run``, without torch: what that takes of a memory limit would be missing for the weights.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offload.bench.expert_spec import WARM_STEPS, Spec, Timing
from offload.peak_memory import peak_rss_nbytes


def main(spec: Spec) -> Timing:
    """Run it here; the model is a GGUF file, mapped into memory."""
    import llama_cpp

    ids = [int(word) for word in Path(spec.tokens).read_text(encoding="utf-8").split()]
    silent = llama_cpp.llama_log_callback(_say_nothing)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(spec.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {spec.model}")
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = len(ids)
    settings.n_batch = settings.n_ubatch = spec.prompt
    settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
    context = llama_cpp.llama_init_from_model(model, settings)
    start = time.perf_counter()
    _decode(llama_cpp, context, ids[: spec.prompt])
    prefill_s = time.perf_counter() - start
    steps = ids[spec.prompt :]
    for place, token in enumerate(steps):
        if place == WARM_STEPS:
            start = time.perf_counter()
        _decode(llama_cpp, context, [token])
    step_s = (time.perf_counter() - start) / (len(steps) - WARM_STEPS)
    return Timing(prefill_s, step_s, peak_rss_nbytes())


def _decode(llama_cpp: Any, context: Any, tokens: Sequence[int]) -> None:
    """The pass is over when its logits, of the last token, are there."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
        raise SystemExit("llama.cpp did not decode")
    llama_cpp.llama_get_logits_ith(context, -1)


def _say_nothing(*_: object) -> None:
    """What it logs is not the answer."""


if __name__ == "__main__":
    print(json.dumps(asdict(main(Spec(**json.loads(sys.argv[1]))))))  # noqa: T201 - the answer
