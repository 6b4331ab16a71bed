"""Both queues, on a real file: what is asked is done, and every request gets its answer."""

import errno
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers.kit import content, open_fds
from tiers.io_queue import Completion, IOQueue, IORequest, LinuxAIOQueue, ThreadQueue, open_queue

PAGE = 4096
NUM_PAGES = 32
DEPTH = 8


@pytest.fixture(params=[LinuxAIOQueue, ThreadQueue])
def queue(request: pytest.FixtureRequest) -> Iterator[IOQueue]:
    if request.param is LinuxAIOQueue and not LinuxAIOQueue.is_supported():
        pytest.skip("no native asynchronous I/O here")
    queue: IOQueue = request.param(DEPTH)
    yield queue
    queue.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file of NUM_PAGES pages, page ``i`` being ``content(i)``, open with O_DIRECT."""
    path = tmp_path / "pages"
    path.write_bytes(b"".join(content(i) for i in range(NUM_PAGES)))
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    yield fd
    os.close(fd)


def pages(count: int, data: bytes = b"") -> memoryview:
    buffer = memoryview(mmap.mmap(-1, count * PAGE))
    buffer[: len(data)] = data
    return buffer


def read(tag: int, fd: int, page: int, *buffers: memoryview) -> IORequest:
    return IORequest(tag, fd, page * PAGE, buffers, is_write=False)


def write(tag: int, fd: int, page: int, *buffers: memoryview) -> IORequest:
    return IORequest(tag, fd, page * PAGE, buffers, is_write=True)


def run(queue: IOQueue, requests: Sequence[IORequest]) -> dict[int, Completion]:
    """Submit, wait for all, return the answers by tag."""
    queue.submit(requests)
    assert queue.in_flight == len(requests)
    done = queue.reap(minimum=len(requests))
    assert queue.in_flight == 0
    return {completion.tag: completion for completion in done}


def only(completions: dict[int, Completion]) -> Completion:
    (completion,) = completions.values()
    return completion


def test_reads_one_page(queue: IOQueue, fd: int) -> None:
    buffer = pages(1)
    assert run(queue, [read(7, fd, 3, buffer)]) == {7: Completion(7, PAGE)}
    assert buffer == content(3)


def test_scatters_a_read_over_its_buffers(queue: IOQueue, fd: int) -> None:
    """In their order, whatever their place in memory."""
    arena = pages(4)
    parts = arena[3 * PAGE :], arena[: 2 * PAGE], arena[2 * PAGE : 3 * PAGE]
    request = read(0, fd, 10, *parts)
    assert request.nbytes == 4 * PAGE
    assert only(run(queue, [request])).nbytes == 4 * PAGE
    assert [bytes(part) for part in parts] == [content(10), content(11) + content(12), content(13)]


def test_gathers_a_write_from_its_buffers(queue: IOQueue, fd: int) -> None:
    request = write(0, fd, 4, pages(1, content(50)), pages(2, content(51) + content(52)))
    assert only(run(queue, [request])).nbytes == 3 * PAGE
    found = pages(5)
    os.preadv(fd, [found], 3 * PAGE)
    assert found == b"".join(content(i) for i in (3, 50, 51, 52, 7))


def test_writes_from_memory_that_may_only_be_read(queue: IOQueue, fd: int) -> None:
    run(queue, [write(0, fd, 1, pages(1, content(60)).toreadonly())])
    found = pages(1)
    os.preadv(fd, [found], PAGE)
    assert found == content(60)


def test_answers_many_requests_each_with_its_tag(queue: IOQueue, fd: int) -> None:
    order = Random(1).sample(range(NUM_PAGES), DEPTH)
    buffers = {tag: pages(1) for tag in order}
    done = run(queue, [read(tag, fd, tag, buffer) for tag, buffer in buffers.items()])
    assert done == {tag: Completion(tag, PAGE) for tag in order}
    assert all(buffer == content(tag) for tag, buffer in buffers.items())


def test_is_used_again_and_again(queue: IOQueue, fd: int) -> None:
    """More requests over time than the queue is deep, with some always in flight."""
    buffers = [pages(1) for _ in range(NUM_PAGES)]
    waiting = [read(tag, fd, tag, buffers[tag]) for tag in range(NUM_PAGES)]
    done: list[Completion] = []
    while len(done) < NUM_PAGES:
        room = DEPTH - queue.in_flight
        queue.submit(waiting[:room])
        del waiting[:room]
        done += queue.reap(minimum=2)
        assert queue.in_flight + len(done) + len(waiting) == NUM_PAGES
    assert sorted(completion.tag for completion in done) == list(range(NUM_PAGES))
    assert [bytes(buffer) for buffer in buffers] == [content(i) for i in range(NUM_PAGES)]


def test_comes_up_short_at_the_end_of_the_file(queue: IOQueue, fd: int) -> None:
    """That is an answer, not an error: whoever asked knows what is required."""
    os.ftruncate(fd, 5 * PAGE + 100)
    done = run(queue, [read(0, fd, 4, pages(4)), read(1, fd, 5, pages(1)), read(2, fd, 9, pages(1))])
    assert done == {0: Completion(0, PAGE + 100), 1: Completion(1, 100), 2: Completion(2, 0)}


@pytest.mark.parametrize("is_write", [False, True])
def test_a_wrong_descriptor_is_an_answer(queue: IOQueue, tmp_path: Path, is_write: bool) -> None:
    """One that is closed, one that was never one, and one that is open for the other direction only."""
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)
    other_way = os.open(tmp_path / "file", os.O_CREAT | (os.O_RDONLY if is_write else os.O_WRONLY))
    done = run(queue, [IORequest(fd, fd, 0, (pages(1),), is_write) for fd in (closed, -1, other_way)])
    os.close(other_way)
    for completion in done.values():
        assert completion.nbytes == 0
        assert completion.error is not None
    assert {c.error.errno for c in done.values() if c.error and c.tag != -1} == {errno.EBADF}


@pytest.mark.parametrize("offset", [1, 0])
def test_what_direct_io_refuses_is_an_answer(queue: IOQueue, fd: int, offset: int) -> None:
    """An offset, and then memory and a length, that are no multiples of anything."""
    buffer = pages(2)[offset ^ 1 :][: PAGE - (offset ^ 1)]
    error = only(run(queue, [IORequest(0, fd, offset, (buffer,), is_write=False)])).error
    assert error is not None
    assert error.errno == errno.EINVAL


def test_memory_that_cannot_be_filled_is_an_answer(queue: IOQueue, fd: int) -> None:
    """Read-only memory, and memory that was given back: an error, and not a byte of the first is changed."""
    gone, fixed = pages(1), pages(1).toreadonly()
    gone.release()
    done = run(queue, [read(0, fd, 1, gone), read(1, fd, 1, fixed), read(2, fd, 1, pages(1))])
    assert done[0].error is not None
    assert done[1].error is not None
    assert done[2] == Completion(2, PAGE)
    assert fixed == bytes(PAGE)


def test_a_refused_request_does_not_take_others_along(queue: IOQueue, fd: int) -> None:
    buffers = [pages(1) for _ in range(DEPTH)]
    done = run(queue, [read(i, -1 if i % 3 == 1 else fd, i, buffer) for i, buffer in enumerate(buffers)])
    for i, buffer in enumerate(buffers):
        assert (done[i].error is not None) == (i % 3 == 1)
        assert buffer == (bytes(PAGE) if i % 3 == 1 else content(i))
    assert run(queue, [read(i, fd, i, buffer) for i, buffer in enumerate(buffers)]).keys() == set(range(DEPTH))


def test_takes_no_more_than_its_depth(queue: IOQueue, fd: int) -> None:
    requests = [read(i, fd, i, pages(1)) for i in range(DEPTH + 1)]
    with pytest.raises(AssertionError, match="more requests than the queue is deep"):
        queue.submit(requests)
    assert run(queue, requests[:DEPTH]).keys() == set(range(DEPTH))


def test_never_waits_for_more_than_is_in_flight(queue: IOQueue, fd: int) -> None:
    assert queue.reap(minimum=3) == []
    queue.submit([read(0, fd, 0, pages(1)), read(1, fd, 1, pages(1))])
    assert len(queue.reap(minimum=5)) == 2


def test_does_not_wait_where_nothing_is_asked_for(queue: IOQueue, fd: int) -> None:
    """With a minimum of nothing or no time to wait it takes what is there; in the end all is there."""
    queue.submit([read(i, fd, i, pages(1)) for i in range(DEPTH)])
    done: list[Completion] = []
    while queue.in_flight:
        done += queue.reap(minimum=0)
        done += queue.reap(minimum=DEPTH, timeout_s=0.0)
    assert sorted(completion.tag for completion in done) == list(range(DEPTH))


def test_stops_waiting_in_time(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a drive that does not answer; what did come back before is returned."""
    gate = threading.Event()
    really_read = os.preadv

    def read_through_gate(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset:
            gate.wait()
        return really_read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_through_gate)
    with closing(ThreadQueue(3)) as queue:
        queue.submit([read(i, fd, i, pages(1)) for i in range(3)])
        assert queue.reap(minimum=2, timeout_s=0.05) == [Completion(0, PAGE)]
        assert queue.reap(timeout_s=0.01) == []
        assert queue.in_flight == 2
        gate.set()
        assert len(queue.reap(minimum=2, timeout_s=60)) == 2


def test_close_waits_for_what_is_in_flight(queue: IOQueue, fd: int) -> None:
    queue.submit([write(i, fd, i, pages(1, content(100 + i))) for i in range(DEPTH)])
    queue.close()
    assert queue.in_flight == 0
    found = pages(DEPTH)
    os.preadv(fd, [found], 0)
    assert found == b"".join(content(100 + i) for i in range(DEPTH))
    queue.close()


def test_close_does_not_wait_for_what_was_refused(queue: IOQueue, fd: int) -> None:
    queue.submit([read(0, -1, 0, pages(1)), read(1, fd, 0, pages(1).toreadonly())])
    queue.close()
    assert queue.in_flight == 0


def test_leaves_no_thread_and_no_descriptor(fd: int) -> None:
    threads, fds = threading.enumerate(), open_fds()
    for direct in (True, False):
        with closing(open_queue(4, direct=direct)) as queue:
            run(queue, [read(0, fd, 0, pages(1))])
    assert threading.enumerate() == threads
    assert open_fds() == fds


def test_chooses_by_the_file() -> None:
    with closing(open_queue(2, direct=False)) as queue:
        assert isinstance(queue, ThreadQueue)
    with closing(open_queue(2)) as queue:
        assert isinstance(queue, LinuxAIOQueue if LinuxAIOQueue.is_supported() else ThreadQueue)


def test_threads_stand_in_where_the_kernel_has_no_requests_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of a machine share fs.aio-max-nr: the probe may get its small context and a deep queue none."""
    make = LinuxAIOQueue.__init__

    def make_small_only(queue: LinuxAIOQueue, depth: int) -> None:
        if depth > 1:
            raise OSError(errno.EAGAIN, "io_setup: Resource temporarily unavailable")
        make(queue, depth)

    monkeypatch.setattr(LinuxAIOQueue, "__init__", make_small_only)
    with closing(open_queue(DEPTH)) as queue:
        assert isinstance(queue, ThreadQueue)
        assert queue.depth == DEPTH


def test_agrees_with_a_bytearray(queue: IOQueue, fd: int) -> None:
    """Batches of reads and writes of any length, no two of a batch on the same page."""
    image = bytearray(b"".join(content(i) for i in range(NUM_PAGES)))
    ranges = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=DEPTH)

    @settings(max_examples=30, deadline=None)
    @given(ranges=ranges, first=st.integers(0, NUM_PAGES - 4 * DEPTH), seed=st.integers(0, 2**32))
    def check(ranges: list[tuple[int, bool]], first: int, seed: int) -> None:
        requests = []
        for tag, (count, is_write) in enumerate(ranges):
            data = content(seed + tag, count * PAGE) if is_write else b""
            buffers = [pages(1, data[i * PAGE : (i + 1) * PAGE]) for i in range(count)]
            requests.append(IORequest(tag, fd, first * PAGE, tuple(buffers), is_write))
            if is_write:
                image[first * PAGE : (first + count) * PAGE] = data
            first += count
        done = run(queue, requests)
        for request in requests:
            assert done[request.tag] == Completion(request.tag, request.nbytes)
            assert b"".join(request.buffers) == image[request.offset : request.offset + request.nbytes]

    check()
