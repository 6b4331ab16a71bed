"""One timed generation of a dense model, in a process of its own: ``python -m offload.bench.kv_run SPEC``.

SPEC is a JSON object of the fields of ``Spec``; the answer is one of the fields of ``Timing``.
"""

from offload.threads import wait_politely

wait_politely()  # before torch

import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict, dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Literal  # noqa: E402

from offload.bench.accelerated import accelerated  # noqa: E402
from offload.bench.generation import Timed, generate_timed, with_tiers  # noqa: E402
from offload.bench.limited import Row, limited_row  # noqa: E402
from offload.config import RunConfig  # noqa: E402
from offload.device import is_gpu  # noqa: E402
from offload.offloaded_model import OffloadedModel  # noqa: E402
from offload.peak_memory import peak_rss_nbytes  # noqa: E402
from offload.plan import Workload  # noqa: E402


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run: ``new_tokens`` greedily after ``prompt``, with ``device_memory`` bytes on the device.

    What does not fit there stays on the drive: ours where the model is, accelerate's copy below ``folder``.
    """

    engine: Literal["ours", "accelerate"]
    model: str
    prompt: list[int]
    new_tokens: int
    folder: str
    device_memory: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Timing:
    """What it took; ``nbytes_per_step`` came from the drive, as far as we counted it."""

    tokens: list[int]
    prefill_s: float
    step_s: float
    peak_rss_nbytes: int
    nbytes_per_step: float = 0.0


def main(spec: Spec) -> Timing:
    """Run it here."""
    timed = _ours(spec) if spec.engine == "ours" else _accelerate(spec)
    stretch = timed.stretch
    missed = stretch.nbytes("nvme->device") / stretch.passes if stretch else 0.0
    return Timing(list(timed.tokens), timed.prefill_s, timed.step_s, peak_rss_nbytes(), missed)


def _ours(spec: Spec) -> Timed:
    def use(model: OffloadedModel) -> Timed:
        return generate_timed(model, spec.prompt, spec.new_tokens)

    # Nothing in the host's memory: a GPU too has the drive behind it.
    host = 0 if is_gpu(spec.device) else None
    config = RunConfig(
        device=spec.device, device_memory=spec.device_memory, host_memory=host, nvme_dir=Path(spec.folder)
    )
    timed, _ = with_tiers(Path(spec.model), config, Workload(1, len(spec.prompt), spec.new_tokens), use)
    return timed


def _accelerate(spec: Spec) -> Timed:
    with tempfile.TemporaryDirectory(dir=Path(spec.folder).parent, prefix="accelerate-") as folder:
        model = accelerated(spec.model, spec.device, spec.device_memory, folder)
        return generate_timed(model, spec.prompt, spec.new_tokens)


def limited_kv_row(name: str, spec: Spec, limit: int, drive: Callable[[], float]) -> Row:
    """Ours against accelerate's disk offload within the same bytes; see ``limited_row``."""
    return limited_row(name, "offload.bench.kv_run", spec, replace(spec, engine="accelerate"), limit, drive)


if __name__ == "__main__":
    print(json.dumps(asdict(main(Spec(**json.loads(sys.argv[1]))))))  # noqa: T201 - the answer
