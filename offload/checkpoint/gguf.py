"""A GGUF file as transformers would load it, one tensor at a time.

The blocks are unpacked by the ``gguf`` package; names, shapes and the reordering of rows (llama.cpp stores the query
and key projections of some architectures permuted) come from the tables with which transformers itself loads GGUF
files, so that a model packed from here computes what ``from_pretrained(..., gguf_file=...)`` computes.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offload.checkpoint.base import PIECE_NBYTES, Checkpoint, TensorInfo
from offload.checkpoint.safetensors_header import refuse_lfs_pointer
from tiers.errors import ModelError, TransferError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from gguf.gguf_reader import ReaderTensor
    from transformers import PretrainedConfig

_HEAD_NBYTES = 1024 * 1024


class GGUFFile(Checkpoint):
    """Opens a file without unpacking weights. All tensors are float32, as transformers has them.

    Raises ModelError for a truncated file, for one of several parts, for architectures that transformers cannot load.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint = fingerprint_gguf(path)
        reader = _open_reader(path)
        architecture = _check_complete(path, reader)
        self._has_tokenizer = "tokenizer.ggml.model" in reader.fields
        self._hf_config, settings = _read_config(path, architecture)
        self.config = self._hf_config.to_dict()
        self._names = _NameTable(path, architecture, self._hf_config, settings)
        self._parts = self._names.parts_of(reader)
        shapes = self._names.shapes
        self.tensors = {name: TensorInfo(name, "F32", shapes[name]) for name in shapes if name in self._parts}
        self._last: tuple[str, NDArray[np.uint8]] | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, name: str, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        # The slices of a head ask for one tensor many times in a row.
        if self._last is None or self._last[0] != name:
            self._last = None
            self._last = (name, self._unpack(name))
        data = self._last[1]
        for begin in range(start, stop, PIECE_NBYTES):
            yield data[begin : min(stop, begin + PIECE_NBYTES)]

    def write_model_files(self, directory: Path) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        self._hf_config.save_pretrained(directory)
        GenerationConfig.from_model_config(self._hf_config).save_pretrained(directory)
        if self._has_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
            tokenizer.save_pretrained(directory)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._last = None

    def _unpack(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor as transformers would have it."""
        from gguf import dequantize

        collected: dict[str, Any] = {}
        for tensor in self._parts[name]:
            weights = dequantize(self._read_blocks(tensor), tensor.tensor_type)
            collected = self._names.process(weights, tensor.name, name, collected)
            del weights
        found = np.ascontiguousarray(np.asarray(collected[name]), np.float32)
        if found.shape != self.tensors[name].shape:
            raise ModelError(
                f"{self.path}: {name} has shape {found.shape}, the model wants {self.tensors[name].shape}; "
                "the file does not fit this architecture"
            )
        return found.reshape(-1).view(np.uint8)

    def _read_blocks(self, tensor: "ReaderTensor") -> NDArray[Any]:
        # Not through the reader's memory map: the pages of the whole file would count as ours.
        raw = np.empty(tensor.n_bytes, np.uint8)
        done = 0
        while done < raw.nbytes:
            try:
                moved = os.preadv(self._fd, [raw[done:].data], tensor.data_offset + done)
            except OSError as error:
                raise TransferError(f"{self.path}: {error.strerror}", tier="nvme") from error
            if moved == 0:
                raise TransferError(f"{self.path}: ends inside {tensor.name}; it has changed", tier="nvme")
            done += moved
        return raw.view(tensor.data.dtype).reshape(tensor.data.shape)


class _NameTable:
    """The mapping of transformers: from its parameters to the tensors of a GGUF file and back."""

    def __init__(self, path: Path, architecture: str, config: "PretrainedConfig", settings: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        self._path = path
        make_processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
        self._processor = make_processor(config=settings)
        self._map: dict[str, str] = get_gguf_hf_weights_map(model, self._processor)
        self._tied = set(model.all_tied_weights_keys)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def parts_of(self, reader: "GGUFReader") -> dict[str, list["ReaderTensor"]]:
        """The GGUF tensors that each parameter is made from; ModelError where one has none."""
        parts: dict[str, list[ReaderTensor]] = {}
        for tensor in reader.tensors:
            # Merged experts are entered in the map without their suffix.
            name = self._map.get(tensor.name) or self._map.get(tensor.name.rpartition(".")[0])
            if name is not None:
                parts.setdefault(name, []).append(tensor)
        missing = [name for name in self.shapes if name not in parts and name not in self._tied]
        if missing:
            raise ModelError(f"{self._path}: nothing in it for {missing[0]} ({len(missing)} such); download it again")
        return parts

    def process(self, weights: NDArray[Any], gguf_name: str, name: str, collected: dict[str, Any]) -> dict[str, Any]:
        """Undo what llama.cpp did to one tensor; merged tensors are collected over several calls."""
        result = self._processor.process(
            weights=weights,
            name=gguf_name,
            tensor_key_mapping=self._map,
            parsed_parameters={"tensors": collected},
        )
        return {name: result.weights} if result.name is not None else collected


def _open_reader(path: Path) -> "GGUFReader":
    from gguf import GGUFReader

    with path.open("rb") as file:
        refuse_lfs_pointer(path, file.read(32))
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: truncated or no GGUF file ({error}); download it again") from None


def _check_complete(path: Path, reader: "GGUFReader") -> str:
    """Returns the architecture as GGUF calls it."""
    size = path.stat().st_size
    end = max((int(tensor.data_offset + tensor.n_bytes) for tensor in reader.tensors), default=0)
    if size < end or not reader.tensors:
        raise ModelError(f"{path}: truncated: {size:,} bytes, its header says {end:,}; download it again")
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() > 1:
        raise ModelError(f"{path}: one of {parts.contents()} parts; join them with 'llama-gguf-split --merge' first")
    field = reader.get_field("general.architecture")
    return str(field.contents()) if field is not None else "unknown"


def _read_config(path: Path, architecture: str) -> tuple["PretrainedConfig", dict[str, Any]]:
    """The configuration, and the settings of the file itself, which lack what the configuration takes by default."""
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    unsupported = f"{path}: GGUF architecture '{architecture}' cannot be unpacked; use the model's safetensors"
    load: Any = load_gguf_checkpoint
    try:
        settings: dict[str, Any] = load(str(path))["config"]
        config = AutoConfig.for_model(**settings)
    except (ValueError, KeyError) as error:
        raise ModelError(unsupported) from error
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if not isinstance(class_name, str):
        raise ModelError(unsupported)
    config.architectures = [class_name]
    config.dtype = "float32"
    return config, settings


def fingerprint_gguf(path: Path) -> str:
    """Changes when the file changes; needs none of the seconds that opening takes. ModelError if it is not there."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_NBYTES)
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; check the path") from None
    return hashlib.sha256(f"{stat.st_size}:{stat.st_mtime_ns}:".encode() + head).hexdigest()
