"""How much memory this process may lock (``ulimit -l``), which page-locked memory may be refused for."""

import resource


def locked_memory_limit() -> int | None:
    """In bytes; None where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def why_not_locked(nbytes: int) -> str:
    """What helps where ``nbytes`` could not be locked: the limit where that is below them, else a smaller budget."""
    limit = locked_memory_limit()
    if limit is not None and limit < nbytes:
        return f"ulimit -l allows {limit:,}: raise it, or lower the budget"
    return "lower the budget"
