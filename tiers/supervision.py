"""An object of somebody else's class: how it is found, made and asked, and who is named when it does wrong."""

import difflib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from tiers.errors import InvalidOptionError, PolicyError

_THEIR_ERRORS = (Exception, SystemExit)


class Supervision:
    """Makes the object and asks it. ``name`` is what it is called in errors, ``kind`` what it should be.

    What it raises comes as a PolicyError that names the method and the line; ``cure`` is how it must be made.
    """

    def __init__(self, theirs: type[Any], name: str, kind: str, cure: str, *arguments: object, **named: object) -> None:
        self._name, self._kind = name, kind
        self._fault: PolicyError | None = None
        try:
            self._object = theirs(*arguments, **named)
        except _THEIR_ERRORS as error:
            raise self._raised("__init__", error, cure) from error

    def has(self, method: str) -> bool:
        """Whether it has a method that it need not have."""
        return hasattr(self._object, method)

    def ask(self, method: str, *arguments: object) -> Any:
        """What the method gives."""
        try:
            return getattr(self._object, method)(*arguments)
        except _THEIR_ERRORS as error:
            raise self._raised(method, error, "--debug shows the traceback") from error

    def did(self, what: str) -> PolicyError:
        """The error to raise for something that it must not do; the first one, whatever follows."""
        # Whoever cleans up behind the first fault meets others that come of it.
        if self._fault is None:
            self._fault = PolicyError(f"'{self._name}' is no {self._kind}: {what}")
        return self._fault

    def _raised(self, method: str, error: BaseException, cure: str) -> PolicyError:
        what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is ours
        where = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return self.did(f"{method} raised {what}{where}; {cure}")


def find_class(name: str, kind: str, example: str) -> type[Any]:
    """The class that ``module:Class`` names. The module is one that can be imported, or a file here.

    ``kind`` and ``example`` are for InvalidOptionError, which says what is wrong with the name.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name.isidentifier():
        raise InvalidOptionError(f"{name!r} names no {kind}; write {example}")
    module = _import(module_name, name)
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise InvalidOptionError(f"'{name}': the module has no class '{class_name}'{_nearest(class_name, module)}")
    return found


def missing_methods(found: type[Any], interface: tuple[str, ...]) -> list[str]:
    """What a class lacks of ``interface``, or has left abstract."""
    abstract = getattr(found, "__abstractmethods__", None)
    return sorted(abstract) if abstract else [one for one in interface if not callable(getattr(found, one, None))]


def _nearest(name: str, module: ModuleType) -> str:
    near = difflib.get_close_matches(name, [known for known, it in vars(module).items() if isinstance(it, type)], 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _import(module_name: str, name: str) -> ModuleType:
    """A module of the path, else ``module_name.py`` in the current directory, where the command line does not look."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        path = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}.") or not path.is_file():
            raise InvalidOptionError(f"'{name}': {error}; write the module's file into this directory") from None
    except Exception as error:
        raise InvalidOptionError(f"'{name}': the module fails: {type(error).__name__}: {error}") from error
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise InvalidOptionError(f"{path}: the module fails: {type(error).__name__}: {error}") from error
    return module
