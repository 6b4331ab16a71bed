import os
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from offload.checkpoint.in_place import SafetensorsTier
from offload.pack import pack
from offload.weights.rows import RowReader
from tests.offload.checkpoints import save_llama, stored_tensors
from tests.tiers.kit import open_fds
from tiers.errors import TransferError
from tiers.io_queue import Completion, IOQueue, IORequest, open_queue
from tiers.packed_store import PackedStore
from tiers.weight_tier import TensorSpec, WeightTier

NAME = "model.embed_tokens.weight"
VOCABULARY = 301


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Rows of 176 bytes: several in a page, some across two; a vocabulary that no slice divides."""
    return save_llama(tmp_path / "model", vocab_size=VOCABULARY, hidden_size=44, num_attention_heads=2)


def spec_of(source: WeightTier) -> TensorSpec:
    return next(spec for group in source.groups for spec in group.tensors if spec.name == NAME)


def read(reader: RowReader, row_ids: list[int]) -> torch.Tensor:
    target = torch.full((len(row_ids), 44), torch.nan)
    reader.read(row_ids, target)
    return target


def in_place(checkpoint: Path) -> WeightTier:
    return SafetensorsTier(checkpoint)


def packed(checkpoint: Path) -> WeightTier:
    pack(checkpoint, checkpoint.parent / "packed")
    return PackedStore(checkpoint.parent / "packed")


@pytest.mark.parametrize("open_tier", [in_place, packed])
def test_reads_any_rows(checkpoint: Path, open_tier: Callable[[Path], WeightTier]) -> None:
    """One, all (in many rounds), twice the same, backwards, and none."""
    expected = stored_tensors(checkpoint)[NAME]
    source = open_tier(checkpoint)
    before = open_fds()
    reader = RowReader(source, spec_of(source))
    for row_ids in ([0], [VOCABULARY - 1], list(range(VOCABULARY)), [7, 7], [300, 20, 100], []):
        assert torch.equal(read(reader, row_ids), expected[row_ids])
    reader.close()
    reader.close()
    assert open_fds() == before
    assert torch.equal(read(reader, [5]), expected[[5]])
    reader.close()
    source.close()


def test_a_row_that_is_not_there(checkpoint: Path) -> None:
    source = SafetensorsTier(checkpoint)
    reader = RowReader(source, spec_of(source))
    with pytest.raises(IndexError, match="no row 301"):
        read(reader, [3, VOCABULARY])
    assert torch.equal(read(reader, [3]), stored_tensors(checkpoint)[NAME][[3]])
    reader.close()
    source.close()


def test_a_file_that_shrinks(checkpoint: Path) -> None:
    expected = stored_tensors(checkpoint)[NAME]
    source = SafetensorsTier(checkpoint)
    reader = RowReader(source, spec_of(source))
    extent, inside = source.row_extent(NAME, 250)
    os.truncate(checkpoint / "model.safetensors", extent.offset + inside)
    with pytest.raises(TransferError, match=f"row of {NAME}"):
        read(reader, [250])
    assert torch.equal(read(reader, [0]), expected[[0]])
    reader.close()
    source.close()


class InterruptedQueue(IOQueue):
    """Somebody presses Ctrl-C at the first wait."""

    def __init__(self, inner: IOQueue) -> None:
        super().__init__(inner.depth)
        self._inner = inner
        self._is_first = True

    def submit(self, requests: Sequence[IORequest]) -> None:
        self._inner.submit(requests)

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        if self._is_first:
            self._is_first = False
            raise KeyboardInterrupt
        return self._inner.reap(minimum, timeout_s)

    def close(self) -> None:
        self._inner.close()


def test_an_interrupted_read_leaves_nothing_for_the_next(checkpoint: Path) -> None:
    """What was in flight then would come back under the tags of what is asked for now."""
    expected = stored_tensors(checkpoint)[NAME]
    source = SafetensorsTier(checkpoint)
    reader = RowReader(source, spec_of(source))
    with (
        patch.object(source, "open_queue", lambda depth: InterruptedQueue(open_queue(depth, direct=source.direct))),
        pytest.raises(KeyboardInterrupt),
    ):
        read(reader, [10, 11, 12])
    assert torch.equal(read(reader, [50, 51, 52]), expected[50:53])
    reader.close()
    source.close()
