"""Weights straight from the user's safetensors files: no second copy on disk, no checksums."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offload.checkpoint.base import TensorInfo
from offload.checkpoint.groups import Grouping, group_tensors, row_of
from offload.checkpoint.safetensors_dir import SafetensorsDir
from tiers.block import ExpertKey, WeightGroupKey
from tiers.direct_file import DirectFile
from tiers.errors import ModelError
from tiers.tier import ALIGNMENT, Extent, align_down, align_up
from tiers.weight_tier import DTYPE_NBYTES, GroupKind, TensorSpec, WeightGroup, WeightTier


class SafetensorsTier(WeightTier):
    """A Hugging Face directory read in place, with the same groups as a packed store of it.

    A group is read as the page-aligned envelopes of the runs in which its tensors lie, so that a slot holds a few KiB
    of its neighbours too. Raises ModelError, see SafetensorsDir, and where a tensor is not aligned to its element size.
    """

    def __init__(self, path: Path) -> None:
        checkpoint = SafetensorsDir(path)
        grouping = group_tensors(checkpoint.config, checkpoint.tensors, path)
        plan = list(_plan(checkpoint, grouping))
        _check_alignment(path, [group for group, _ in plan])
        files: list[DirectFile] = []
        try:
            files.extend(DirectFile(file.path) for file in checkpoint.files)
        except BaseException:
            for file in files:
                file.close()
            raise
        extents = [tuple(_extent(run, files[run.file]) for run in runs) for _, runs in plan]
        super().__init__(path, [group for group, _ in plan], extents, files)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A tensor, or consecutive rows of one, at byte ``begin`` of a file."""

    info: TensorInfo
    file: int
    begin: int

    @property
    def end(self) -> int:
        return self.begin + self.info.nbytes


@dataclass(slots=True)
class _Run:
    """A page-aligned range of a file and what lies in it."""

    file: int
    start: int
    stop: int
    pieces: list[_Piece]


def _plan(checkpoint: SafetensorsDir, grouping: Grouping) -> Iterator[tuple[WeightGroup, list[_Run]]]:
    largest = 0
    for i, names in enumerate(grouping.layers):
        planned = _group(f"layers.{i}", "layer", [_whole(checkpoint, name) for name in names])
        largest = max(largest, planned[0].nbytes)
        yield planned
    for key, names in grouping.experts.items():
        if names[0] in grouping.stacked:
            yield _group(key, "expert", [_row(checkpoint, name, key.expert) for name in names], key.expert)
        else:
            yield _group(key, "expert", [_whole(checkpoint, name) for name in names])
    yield from _slices("head", _whole(checkpoint, grouping.head), largest)
    if grouping.embedding is not None:
        yield from _slices("embedding", _whole(checkpoint, grouping.embedding), largest)
    if grouping.rest:
        yield _group("rest", "rest", [_whole(checkpoint, name) for name in grouping.rest])


def _slices(kind: GroupKind, whole: _Piece, max_nbytes: int) -> Iterator[tuple[WeightGroup, list[_Run]]]:
    """Cut rows off so that each envelope, not only the rows in it, fits in ``max_nbytes``."""
    num_rows, row_nbytes = whole.info.shape[0], whole.info.row_nbytes
    row = index = 0
    while row < num_rows:
        begin = whole.begin + row * row_nbytes
        count = min(num_rows - row, max(1, (max_nbytes - begin % ALIGNMENT) // row_nbytes))
        info = TensorInfo(whole.info.name, whole.info.dtype, (count, *whole.info.shape[1:]))
        yield _group(f"{kind}.{index}", kind, [_Piece(info, whole.file, begin)], row)
        row += count
        index += 1


def _group(
    key: str | ExpertKey, kind: GroupKind, pieces: list[_Piece], first_row: int = 0
) -> tuple[WeightGroup, list[_Run]]:
    runs = _merge(pieces)
    specs = []
    position = 0
    for run in runs:
        for piece in run.pieces:
            offset = position + piece.begin - run.start
            specs.append(TensorSpec(piece.info.name, piece.info.dtype, piece.info.shape, offset))
        position += run.stop - run.start
    named = WeightGroupKey(key) if isinstance(key, str) else key
    return WeightGroup(named, kind, tuple(specs), position, first_row), runs


def _merge(pieces: Sequence[_Piece]) -> list[_Run]:
    """Join pieces whose envelopes touch: reading them apart would read the page between them twice."""
    runs: list[_Run] = []
    for piece in sorted(pieces, key=lambda piece: (piece.file, piece.begin)):
        start, stop = align_down(piece.begin), max(align_up(piece.end), align_down(piece.begin) + ALIGNMENT)
        if runs and runs[-1].file == piece.file and start <= runs[-1].stop:
            runs[-1].stop = max(runs[-1].stop, stop)
            runs[-1].pieces.append(piece)
        else:
            runs.append(_Run(piece.file, start, stop, [piece]))
    return runs


def _whole(checkpoint: SafetensorsDir, name: str) -> _Piece:
    return _Piece(checkpoint.tensors[name], *checkpoint.place(name))


def _row(checkpoint: SafetensorsDir, name: str, row: int) -> _Piece:
    whole = _whole(checkpoint, name)
    return _Piece(row_of(whole.info), whole.file, whole.begin + row * whole.info.row_nbytes)


def _extent(run: _Run, file: DirectFile) -> Extent:
    nbytes = run.stop - run.start
    return Extent(file.fd, run.start, nbytes, min(nbytes, file.size - run.start))


def _check_alignment(path: Path, groups: Sequence[WeightGroup]) -> None:
    for group in groups:
        for spec in group.tensors:
            if spec.offset % DTYPE_NBYTES[spec.dtype]:
                what = f"{spec.name} does not lie at a multiple of its element size"
                raise ModelError(f"{path}: {what}, so it cannot be used in place; run 'offload pack {path} OUT' first")
