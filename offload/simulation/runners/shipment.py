"""The code that a cell needs, for machines that may have none of it: our packages and the classes of others."""

import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import offload
from offload.simulation.sources import installed, root_of
from tiers.supervision import find_class

_PACKAGES = ("tiers", "prefetch", "simulators", "offload")


@contextmanager
def shipment(others: Collection[str]) -> Iterator[Path]:
    """A directory of sources to put on the path of workers; it is gone when the block is left.

    ``others`` are classes of other people, named ``module:Class``. They come with all modules of theirs that are loaded
    by now from the same place, unless they are installed packages: those have to be on the workers too. Raises what
    ``find_class`` does.
    """
    ours = Path(offload.__file__).parents[1]
    with TemporaryDirectory(prefix="offload-ray-") as name:
        folder = Path(name)
        for other in others:
            find_class(other, "class of somebody else", "my_module:MyClass")
        for other in others:
            if root := root_of(other.partition(":")[0]):
                _copy(_sources_below(root), root, folder)
        for package in _PACKAGES:
            _copy((ours / package).rglob("*.py"), ours, folder)
        yield folder


def _copy(sources: Collection[Path] | Iterator[Path], root: Path, folder: Path) -> None:
    for source in sources:
        copy = folder / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _sources_below(root: Path) -> list[Path]:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file).resolve() for file in files if file}
    places = installed()
    return [
        path
        for path in sorted(paths)
        if path.suffix == ".py"
        and path.is_relative_to(root)
        and not any(path.is_relative_to(place) for place in places)
    ]
