"""A Hugging Face directory with safetensors weights, in one file or in many with an index."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.checkpoint.base import PIECE_NBYTES, Checkpoint
from offload.checkpoint.safetensors_header import SafetensorsFile, read_header
from tiers.errors import ModelError, TransferError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

_MODEL_FILE_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py"}
_WEIGHT_INDEXES = {INDEX_NAME, "pytorch_model.bin.index.json", "zarr.json"}


class SafetensorsDir(Checkpoint):
    """Opens and checks a directory without reading weights; ModelError names the file that is wrong and the cure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.files: Sequence[SafetensorsFile] = tuple(read_header(shard) for shard in _find_shards(path))
        self._places = _index_tensors(path, self.files)
        self.tensors = {name: self.files[i].tensors[name] for name, i in self._places.items()}
        if not self.tensors:
            raise ModelError(f"{path}: its safetensors files hold no tensors; download the model again")
        self.fingerprint = _fingerprint(path, self.files)
        self._fds: dict[int, int] = {}

    def place(self, name: str) -> tuple[int, int]:
        """Where a tensor lies: index into ``files``, byte offset from the start of that file."""
        index = self._places[name]
        return index, self.files[index].begins[name]

    def read(self, name: str, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        index, begin = self.place(name)
        if index not in self._fds:
            self._fds[index] = os.open(self.files[index].path, os.O_RDONLY | os.O_CLOEXEC)
        piece = np.empty(min(PIECE_NBYTES, stop - start), np.uint8)
        while start < stop:
            part = piece[: stop - start]
            self._fill(index, begin + start, part)
            yield part
            start += part.nbytes

    def write_model_files(self, directory: Path) -> None:
        for file in sorted(self.path.iterdir()):
            if file.is_file() and file.suffix in _MODEL_FILE_SUFFIXES and file.name not in _WEIGHT_INDEXES:
                shutil.copyfile(file, directory / file.name)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def _fill(self, index: int, offset: int, part: NDArray[np.uint8]) -> None:
        done = 0
        while done < part.nbytes:
            try:
                moved = os.preadv(self._fds[index], [part[done:].data], offset + done)
            except OSError as error:
                raise TransferError(f"{self.files[index].path}: {error.strerror}", tier="nvme") from error
            if moved == 0:
                path = self.files[index].path
                raise TransferError(f"{path}: ends at byte {offset + done:,}; it has changed", tier="nvme")
            done += moved


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a model directory; ModelError where there is none."""
    if not path.is_dir():
        raise ModelError(f"{path}: no such directory; give a model directory, a .gguf file or a packed store")
    if not any(path.iterdir()):
        raise ModelError(f"{path}: the directory is empty; download the model into it or name another one")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        ggufs = sorted(path.glob("*.gguf"))
        cure = f"give the file {ggufs[0]} itself" if ggufs else "download the model again"
        raise ModelError(f"{path}: no config.json in this directory; {cure}{_unfinished(path)}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / 'config.json'}: cannot be read ({error}); download it again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'}: holds no object; download it again")
    return config


def _find_shards(path: Path) -> list[Path]:
    index = path / INDEX_NAME
    if index.exists():
        names = sorted(set(_read_weight_map(index).values()))
        missing = [name for name in names if not (path / name).exists()]
        if missing:
            what = f"{len(missing)} of {len(names)} weight files are missing, the first is {missing[0]}"
            raise ModelError(f"{path}: {what}; resume the download{_unfinished(path)}")
        return [path / name for name in names]
    if (path / SINGLE_NAME).exists():
        return [path / SINGLE_NAME]
    others = sorted(file.name for pattern in ("*.safetensors", "*.bin", "*.gguf") for file in path.glob(pattern))
    if any(name.endswith(".safetensors") for name in others):
        raise ModelError(f"{path}: neither {SINGLE_NAME} nor {INDEX_NAME} beside {others[0]}; resume the download")
    if others:
        cure = f"give the file {path / others[0]} itself" if others[0].endswith(".gguf") else "save it as safetensors"
        raise ModelError(f"{path}: no safetensors weights, only {others[0]}; {cure}")
    raise ModelError(f"{path}: no {SINGLE_NAME} and no {INDEX_NAME}; download the weights{_unfinished(path)}")


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(tensor): str(file) for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read ({type(error).__name__}); download it again") from None
    for name in names.values():
        # A name that climbs out of the directory must not be followed.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ModelError(f"{index}: names the file {name!r} outside the model directory; download it again")
    return names


def _index_tensors(path: Path, files: Sequence[SafetensorsFile]) -> dict[str, int]:
    """The file of every tensor; where two files hold the same name, the index decides."""
    places = {name: i for i, file in enumerate(files) for name in file.tensors}
    index = path / INDEX_NAME
    if not index.exists():
        return places
    numbers = {file.path: i for i, file in enumerate(files)}
    for name, file_name in _read_weight_map(index).items():
        number = numbers[path / file_name]
        if name not in files[number].tensors:
            raise ModelError(f"{path / file_name}: {name}, which the index promises, is not in it; download it again")
        places[name] = number
    return places


def _unfinished(path: Path) -> str:
    """A remark on what an interrupted download has left behind."""
    left = [*path.glob("*.incomplete"), *path.glob(".cache/huggingface/download/**/*.incomplete")]
    return f" (unfinished: {left[0].name})" if left else ""


def _fingerprint(path: Path, files: Sequence[SafetensorsFile]) -> str:
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in files:
        stat = file.path.stat()
        digest.update(f"{file.path.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        digest.update(file.header)
    return digest.hexdigest()
