"""How the threads of torch wait for each other, which decides how fast streaming is on a machine with few cores."""

import os
import sys

_GLANCES_S = (0.05, 0.2)
"""Most machines are found idle by the first. What looks busy is looked at again, longer: the first has five ticks of a
core, of which a passing one or two are nothing."""
_BUSY_CORES = 0.5


def wait_politely() -> bool:
    """Let idle OpenMP threads sleep after a fraction of a millisecond instead of spinning for several.

    A thread that spins while a layer is awaited occupies the core on which the drive's completions should be handled,
    and is itself not running when the next layer starts: with as many OpenMP threads as cores a streamed token then
    takes twice as long. One that sleeps takes 50 us to wake, and there are hundreds of products in a token: it should
    spin for as long as it takes to get from one to the next, unless others want the cores. The OpenMP library reads its
    settings once, when torch is imported, so this has to come first; False if it comes too late. A setting of the
    user's own stays.
    """
    # What decides multiplies small matrices in numpy: threads of its own for that would spin beside those of torch.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "torch" in sys.modules:
        return False
    # GNU's, with which torch's builds for Linux come. A spinning thread that another process keeps from its core is
    # waited for by all: where one is busy on two cores, long spins halve the speed that they raise by a quarter alone.
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "2000" if _are_others_busy() else "20000"
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's and LLVM's
    return True


def _are_others_busy() -> bool:
    """Whether other processes use half a core or more, right now."""
    import psutil

    num_cores = psutil.cpu_count() or 1
    return all(psutil.cpu_percent(interval=glance_s) / 100 * num_cores >= _BUSY_CORES for glance_s in _GLANCES_S)
