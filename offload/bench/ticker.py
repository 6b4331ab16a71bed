"""Progress of a benchmark in rows."""

import itertools
from collections.abc import Callable

Progress = Callable[[int, int], None]


def ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    """To be called at the end of each of ``total`` rows; tells ``progress`` how many are done."""
    counter = itertools.count(1)

    def tick() -> None:
        done = next(counter)
        if progress:
            progress(min(done, total), total)

    return tick
