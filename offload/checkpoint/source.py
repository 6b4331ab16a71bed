"""From what the user calls MODEL to an open checkpoint."""

from contextlib import closing
from pathlib import Path

from offload.checkpoint.base import Checkpoint
from offload.checkpoint.in_place import SafetensorsTier
from offload.checkpoint.safetensors_dir import SafetensorsDir
from tiers.errors import ModelError
from tiers.packed_store import PackedStore, is_packed_store
from tiers.weight_tier import WeightTier


def open_source(model: Path) -> WeightTier:
    """A tier to stream weights from: a packed store, or a safetensors directory in place.

    Raises ModelError for anything else, and for a GGUF file, whose blocks have to be unpacked first.
    """
    if model.suffix == ".gguf":
        raise ModelError(f"{model}: a GGUF file cannot be streamed; run 'offload pack {model} OUT' and use OUT")
    if is_packed_store(model):
        return PackedStore(model)
    return SafetensorsTier(model)


def fingerprint(model: Path) -> str:
    """What ``open_checkpoint(model).fingerprint`` would be, without the seconds that a GGUF file takes to open."""
    if model.suffix == ".gguf":
        from offload.checkpoint.gguf import fingerprint_gguf

        return fingerprint_gguf(model)
    with closing(open_checkpoint(model)) as checkpoint:
        return checkpoint.fingerprint


def model_fingerprint(model: Path) -> str:
    """The fingerprint of a checkpoint; of a packed store, that of the checkpoint from which it was made.

    Routing recorded with one is of use to the other. Raises ModelError.
    """
    if not is_packed_store(model):
        return fingerprint(model)
    with closing(PackedStore(model)) as store:
        return store.source.rpartition(":")[0]


def open_checkpoint(model: Path) -> Checkpoint:
    """A checkpoint to pack; the caller closes it. Raises ModelError."""
    if model.suffix == ".gguf":
        from offload.checkpoint.gguf import GGUFFile

        return GGUFFile(model)
    if is_packed_store(model):
        raise ModelError(f"{model}: is a packed store already; give the checkpoint that it was made from")
    return SafetensorsDir(model)
