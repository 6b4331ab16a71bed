"""Who else runs a mixture of experts that does not fit: accelerate and llama.cpp, on the same weights and tokens."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from offload.bench.expert_spec import Spec, Timing
from offload.bench.gguf_moe import write_gguf
from tiers.errors import WorldError

PROGRAMS: Final = {"llama.cpp": "offload.bench.llama_cpp_run"}
"""The modules that time an engine, where that is not ``offload.bench.expert_run``."""


def peer_specs(spec: Spec, directory: Path, budget: int) -> dict[str, Callable[[], Spec]]:
    """Prepares each peer's run of what ``spec`` asks of us, with its files in ``directory``.

    Accelerate gets ``budget`` bytes for weights; llama.cpp maps its file and leaves the rest to the page cache. They
    raise WorldError where the peer is not installed, ModelError for a model that it cannot be given.
    """
    return {
        "accelerate": lambda: replace(
            spec, engine="accelerate", folder=str(directory / "accelerate"), device_memory=budget
        ),
        "llama.cpp": lambda: _for_llama_cpp(spec, directory),
    }


def _for_llama_cpp(spec: Spec, directory: Path) -> Spec:
    if find_spec("llama_cpp") is None:
        raise WorldError("llama-cpp-python is not installed; 'pip install llama-cpp-python' builds it")
    return replace(spec, engine="llama.cpp", model=str(write_gguf(Path(spec.model), directory)))


def beside(peers: Mapping[str, Timing], timing: Timing) -> dict[str, Any]:
    """What a row says of the peers: the better one, and all of them in tokens/s."""
    if not peers:
        return {}
    best = min(peers, key=lambda name: peers[name].step_s)
    return {
        "peer": 1 / peers[best].step_s,
        "peer_name": best,
        "peer_prefill_s": peers[best].prefill_s,
        "peers": {name: 1 / peer.step_s for name, peer in peers.items()},
        "ratio_to_peer": peers[best].step_s / timing.step_s,
    }
