"""From a checkpoint to a packed store, streaming."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offload.checkpoint.base import Checkpoint
from offload.checkpoint.convert import convert, converted, parse_dtype
from offload.checkpoint.groups import group_tensors, packed_groups
from offload.checkpoint.source import fingerprint, open_checkpoint
from offload.experts.note import ExpertNote, LowNote
from simulators.expert_trace import ExpertTrace
from tiers.errors import ModelError
from tiers.packed_store import PackedStore, PackedWriter, is_packed_store
from tiers.weight_tier import DTYPE_NBYTES, TensorSpec, WeightGroup, WeightTier

if TYPE_CHECKING:
    from offload.experts.precision import Precisions
    from offload.experts.quantise import GroupReader


@dataclass(frozen=True, slots=True)
class PackResult:
    """What is in a packed store: bytes of weights as stored, with padding, and blocks; and how long it took.

    ``expert_error`` is the error of experts in fewer bits relative to their size, root mean squares; None as stored.
    ``was_there`` where an earlier call wrote it.
    """

    bytes: int
    blocks: int
    seconds: float
    expert_error: float | None = None
    was_there: bool = False


def pack(
    model: Path,
    out: Path,
    *,
    dtype: str | None = None,
    experts: str | None = None,
    trace: ExpertTrace | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackResult:
    """Write the packed form of a checkpoint to ``out``, which becomes a model directory of its own.

    ``dtype`` (float32, bfloat16, float16) converts, None keeps the types. ``experts`` keeps routed experts in fewer
    bits (one of ``offload.experts.precision_name.CHOICES``), for which ``trace`` may tell which are seldom chosen; two
    precisions, as in "int8+int2", keep a second copy of each in the lower one. ``progress`` is told (bytes done, bytes
    in all). Takes a few MiB of memory, for a GGUF file twice its largest
    tensor, to encode experts several times one of them. Does nothing where ``out`` is the packed form of this
    checkpoint already; continues where a killed process stopped. Raises ModelError, InvalidOptionError, DiskFullError,
    TierBusyError.
    """
    start = time.perf_counter()
    target = parse_dtype(dtype)
    precisions = _precisions(experts, trace) if experts else None
    source = f"{fingerprint(model)}:{dtype or 'as stored'}" + (f":{precisions.tag}" if precisions else "")
    if existing := _existing(out, source):
        with closing(existing):
            return replace(_result(existing, start), was_there=True)
    with closing(open_checkpoint(model)) as checkpoint:
        tensors = converted(checkpoint.tensors, target)
        groups = packed_groups(group_tensors(checkpoint.config, tensors, model), tensors)
        reader: GroupReader = _Reader(checkpoint)
        if precisions:
            from offload.experts.quantise import ExpertQuantiser  # brings torch, which nothing else here needs

            quantiser = ExpertQuantiser(model, groups, precisions)
            groups, reader = quantiser.groups, quantiser.reader(reader)
        with PackedWriter(out, groups, source=source) as writer:
            checkpoint.write_model_files(writer.directory)
            if dtype is not None:
                _note_dtype(writer.directory / "config.json", dtype)
            writer.write(reader.read, _cumulative(writer, progress))
            if precisions:
                error, low_error = (
                    statistics.fmean(errors.values()) if errors else 0.0 for errors in quantiser.errors.values()
                )
                low = LowNote(precisions.low, low_error) if precisions.low else None
                ExpertNote(precisions.name, error, low=low).save(writer.directory)
    with closing(PackedStore(out)) as store:
        return _result(store, start)


def _precisions(experts: str, trace: ExpertTrace | None) -> "Precisions":
    from offload.experts.precision import Precisions

    return Precisions.parse(experts, trace)


class _Reader:
    """Reads the rows that a spec wants, in the type that it wants."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, group: WeightGroup, spec: TensorSpec) -> Iterator[NDArray[np.uint8]]:
        stored = self._checkpoint.tensors[spec.name]
        begin = group.first_row * stored.row_nbytes if stored.shape else 0
        nbytes = spec.nbytes // DTYPE_NBYTES[spec.dtype] * DTYPE_NBYTES[stored.dtype]
        for piece in self._checkpoint.read(spec.name, begin, begin + nbytes):
            yield convert(piece, stored.dtype, spec.dtype)


def _existing(out: Path, source: str) -> PackedStore | None:
    """The store at ``out`` if it is the one that is wanted; ModelError if something else is in the way."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_packed_store(out):
        raise ModelError(f"{out}: exists and is no packed store; remove it or name another directory")
    store = PackedStore(out)
    if store.source != source:
        store.close()
        raise ModelError(f"{out}: was packed from other files or in another type; remove it or name another directory")
    return store


def _cumulative(writer: PackedWriter, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done, total = writer.finished_nbytes, writer.nbytes

    def add(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return add


def _note_dtype(path: Path, dtype: str) -> None:
    """transformers reads the type from here; ``torch_dtype`` is its older name."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _result(store: WeightTier, start: float) -> PackResult:
    nbytes = sum(group.nbytes for group in store.groups)
    note = ExpertNote.load(store.path)
    error = note.relative_error if note else None
    return PackResult(nbytes, store.num_slots, time.perf_counter() - start, error)
