import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers.packed import Contents, assert_holds, make_groups, random_contents, reader_of, write_store
from tiers.block import WeightGroupKey
from tiers.errors import DiskFullError, ModelError, TierBusyError, TransferError
from tiers.packed_store import PackedStore, PackedWriter
from tiers.tier import ALIGNMENT, align_up
from tiers.weight_tier import TensorSpec, WeightGroup


@pytest.fixture
def groups() -> list[WeightGroup]:
    return make_groups()


@pytest.fixture
def contents(groups: list[WeightGroup]) -> Contents:
    return random_contents(groups)


def test_an_error_leaves_nothing(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    def fails() -> None:
        with PackedWriter(tmp_path / "store", groups, source="s") as writer:
            writer.write(reader_of(contents))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_runs_dry(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    contents["head.1"] = contents["head.1"][:50]
    with pytest.raises(TransferError, match="head: 50 bytes came, 12,000 expected"):
        write_store(tmp_path / "store", groups, contents)
    assert list(tmp_path.iterdir()) == []


def test_only_one_writer(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    with PackedWriter(tmp_path / "store", groups, source="s") as writer:
        with pytest.raises(TierBusyError, match="another process"):
            write_store(tmp_path / "store", groups, contents)
        writer.write(reader_of(contents))
    PackedStore(tmp_path / "store").close()


def test_what_is_there_is_not_replaced(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    out = tmp_path / "store"
    write_store(out, groups, contents)
    before = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(ModelError, match="cannot be replaced"):
        write_store(out, groups, contents)
    assert sorted(path.name for path in out.rglob("*")) == before
    assert not out.with_name("store.partial").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from tests.tiers.packed import make_groups, random_contents, reader_of
from tiers.packed_store import PackedWriter
groups = make_groups()
serve = reader_of(random_contents(groups))

def read(group, spec):
    for piece in serve(group, spec):
        yield piece
        if group.key.name == "head.1":
            os.kill(os.getpid(), signal.SIGKILL)

with PackedWriter(Path(sys.argv[1]), groups, source="s") as writer:
    writer.write(read)
"""


def kill_while_packing(out: Path) -> None:
    """Ends a real process while the second slice of the head is half written."""
    command = [sys.executable, "-c", KILLED, str(out)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert ended.returncode == -9
    assert not out.exists()


def test_a_killed_writer_is_continued(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    out = tmp_path / "store"
    kill_while_packing(out)
    calls: list[str] = []
    with PackedWriter(out, groups, source="s") as writer:
        assert writer.finished_nbytes == 2 * 3 * ALIGNMENT
        writer.write(reader_of(contents, calls))
        assert writer.finished_nbytes == writer.nbytes
    assert calls == ["head.0/head", "head.1/head", "head.2/head", "rest/norm"]
    store = PackedStore(out)
    assert_holds(store, contents)
    store.close()
    names = ["crc32c", "head", "layers.0", "layers.1", "rest", "zarr.json"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_work_for_another_source_is_thrown_away(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    out = tmp_path / "store"
    kill_while_packing(out)
    with PackedWriter(out, groups, source="other") as writer:
        assert writer.finished_nbytes == 0
        writer.write(reader_of(contents))
    PackedStore(out).close()


def test_a_shard_lost_since_the_kill_is_written_again(
    tmp_path: Path, groups: list[WeightGroup], contents: Contents
) -> None:
    out = tmp_path / "store"
    kill_while_packing(out)
    os.truncate(out.with_name("store.partial") / "layers.0" / "c" / "0" / "0", 10)
    with PackedWriter(out, groups, source="s") as writer:
        assert writer.finished_nbytes == 3 * ALIGNMENT
        writer.write(reader_of(contents))
    PackedStore(out).close()


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    nbytes = align_up(1 << 60)
    spec = TensorSpec("a", "U8", (nbytes,), 0)
    groups = [WeightGroup(WeightGroupKey("layers.0"), "layer", (spec,), nbytes)]
    with pytest.raises(DiskFullError) as caught:
        write_store(tmp_path / "store", groups, {})
    assert caught.value.wanted_bytes > nbytes > caught.value.available_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_no_room_found_while_writing(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> None:
    """A limit on the size of files stands for a quota that the free space does not show."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * ALIGNMENT, hard))
    try:
        with pytest.raises(DiskFullError):
            write_store(tmp_path / "store", groups, contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
