"""How fast this machine's processor or GPU computes and moves bytes, measured with torch in a second or two."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class ComputeSpeed:
    """What one device can do. ``memory_bytes_per_s`` is how fast a matrix-vector product reads its matrix."""

    device: str
    description: str
    memory_bytes_per_s: float
    flops: dict[str, float]
    from_host_bytes_per_s: float
    to_host_bytes_per_s: float
    host_latency_s: float


def find_device() -> str:
    """The torch name of the device to compute on: the first CUDA device, or the processor."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def measure_compute(device: str, *, seconds: float = 0.25) -> ComputeSpeed:
    """Measure ``device``, each number for about ``seconds``."""
    import torch

    is_cuda = device.startswith("cuda")
    side = 4096 if is_cuda else 1024
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if is_cuda else (torch.float32, torch.bfloat16)
    with torch.inference_mode():
        memory = _memory_bytes_per_s(device, seconds)
        flops = {str(dtype).removeprefix("torch."): _flops(dtype, side, device, seconds) for dtype in dtypes}
        here = torch.ones(64 * _MIB, dtype=torch.uint8, pin_memory=is_cuda)
        there = torch.ones(64 * _MIB, dtype=torch.uint8, device=device)
        page, slot = here[:4096], there[:4096]
        return ComputeSpeed(
            device=device,
            description=torch.cuda.get_device_name(device) if is_cuda else processor_name(),
            memory_bytes_per_s=memory,
            flops=flops,
            from_host_bytes_per_s=here.nbytes / _median_s(lambda: there.copy_(here), device, seconds),
            to_host_bytes_per_s=here.nbytes / _median_s(lambda: here.copy_(there), device, seconds),
            host_latency_s=_median_s(lambda: slot.copy_(page), device, seconds / 5),
        )


def _memory_bytes_per_s(device: str, seconds: float) -> float:
    import torch

    # 256 MiB, which no cache holds.
    matrix = torch.full((8192, 8192), 0.5, device=device)
    vector = torch.full((1, 8192), 0.5, device=device)
    return matrix.nbytes / _median_s(lambda: torch.nn.functional.linear(vector, matrix), device, seconds)


def _flops(dtype: "torch.dtype", side: int, device: str, seconds: float) -> float:
    import torch

    matrix = torch.randn(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _median_s(lambda: matrix @ matrix, device, seconds)


def _median_s(work: Callable[[], object], device: str, seconds: float) -> float:
    """Median time of ``work``, after one call that warms up caches and kernels."""
    import torch

    def timed() -> float:
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed()
    deadline = time.perf_counter() + seconds
    times = [timed()]
    while time.perf_counter() < deadline:
        times.append(timed())
    return statistics.median(times)


def processor_name() -> str:
    """As the kernel spells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
