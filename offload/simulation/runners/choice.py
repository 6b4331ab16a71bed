"""The runner that a command asks for."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offload.simulation.runners.base import CellRunner
from offload.simulation.runners.local import local_runner


@contextmanager
def open_runner(
    path: Path, settings: Mapping[str, Any], policies: Collection[str], *, most: int, ray: str | None = None
) -> Iterator[CellRunner]:
    """Somewhere for cells of the scenario file at ``path``, all with the workload of ``settings``, to run.

    At most ``most`` side by side: on the cores of this machine, or on the Ray cluster at the address ``ray``. Raises
    InvalidOptionError where that cannot be reached.
    """
    if ray is None:
        with local_runner(path, most) as local:
            yield local
        return
    from offload.simulation.runners.on_ray import ray_runner

    with ray_runner(path, settings, policies, address=ray, most=most) as distant:
        yield distant
