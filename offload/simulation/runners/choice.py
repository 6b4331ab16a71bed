"""The runner that a command asks for."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from offload.simulation.kinds import CellMaker
from offload.simulation.runners.base import CellRunner
from offload.simulation.runners.local import local_runner


@contextmanager
def open_runner(
    maker: CellMaker, others: Collection[str], *, most: int, ray: str | None = None
) -> Iterator[CellRunner]:
    """Somewhere for cells of ``maker`` to run, in which nobody else's classes decide but ``others``.

    At most ``most`` side by side: on the cores of this machine, or on the Ray cluster at the address ``ray``. Raises
    InvalidOptionError where that cannot be reached.
    """
    if ray is None:
        with local_runner(maker, most) as local:
            yield local
        return
    from offload.simulation.runners.on_ray import ray_runner

    with ray_runner(maker, others, address=ray, most=most) as distant:
        yield distant
