"""The files that make a policy what it is: where its classes are written, and the helpers that those import."""

import ast
import site
import sys
import sysconfig
from collections.abc import Collection, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

_OURS = ("tiers", "prefetch", "simulators", "offload")


def sources_of(classes: Collection[type]) -> list[Path]:
    """The modules of ``classes``, in their order, then what those of others import from the same folder.

    Others are neither ours nor installed. Imports are read from the source, wherever in a file they are, and on from
    module to module. The folder is the one that holds the outermost package of a module. A module that is not there is
    passed over.
    """
    names = list(dict.fromkeys(one.__module__ for one in classes))
    files = {file: None for name in names if (file := _file_of(name)) is not None}
    for name in names:
        file, root = _file_of(name), root_of(name)
        if file is not None and root is not None and name.partition(".")[0] not in _OURS:
            for helper in sorted(_reached(name, file, root)):
                files.setdefault(helper)
    return list(files)


def root_of(name: str) -> Path | None:
    """The directory below which a loaded module is found by its name; None of one that is installed."""
    file = _file_of(name)
    if file is None or file.suffix != ".py":
        return None
    path = file.resolve()
    depth = name.count(".") + (path.name == "__init__.py")
    return None if any(path.is_relative_to(place) for place in installed()) else path.parents[depth]


@cache
def installed() -> tuple[Path, ...]:
    """Directories of the modules that come with Python and of packages that were installed."""
    places = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("stdlib", "platstdlib"))]
    return tuple(Path(place).resolve() for place in places)


def _reached(name: str, file: Path, root: Path) -> set[Path]:
    """All source files below ``root`` that ``file``, the module ``name``, imports, or what those import."""
    found: set[Path] = set()
    rest = [(name, file)]
    while rest:
        name, file = rest.pop()
        for imported in _imports(name, file):
            # Importing a.b.c runs a and a.b before.
            words = imported.split(".")
            for depth in range(1, len(words) + 1):
                helper = _below(root, words[:depth])
                if helper is not None and helper not in found:
                    found.add(helper)
                    rest.append((".".join(words[:depth]), helper))
    return found


def _imports(name: str, file: Path) -> Iterator[str]:
    """The modules that a file may import; of ``from a import b`` both a and a.b, which may be one."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _below(root: Path, words: list[str]) -> Path | None:
    if words[0] in _OURS:
        return None
    path = root.joinpath(*words)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if file else None
