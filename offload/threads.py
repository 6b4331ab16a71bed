"""How the threads of torch wait for each other, which decides how fast streaming is on a machine with few cores."""

import os
import sys


def wait_politely() -> bool:
    """Let idle OpenMP threads sleep after a fraction of a millisecond instead of spinning for several.

    A thread that spins while a layer is awaited occupies the core on which the drive's completions should be handled,
    and is itself not running when the next layer starts: with as many OpenMP threads as cores a streamed token then
    takes twice as long. One that sleeps takes 50 us to wake, and there are hundreds of products in a token: it should
    spin for as long as it takes to get from one to the next. The OpenMP library reads its settings once, when torch is
    imported, so this has to come first; False if it comes too late. A setting of the user's own stays.
    """
    # What decides multiplies small matrices in numpy: threads of its own for that would spin beside those of torch.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "torch" in sys.modules:
        return False
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # GNU's, with which torch's builds for Linux come
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's and LLVM's
    return True
