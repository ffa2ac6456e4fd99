"""A worker's end of a channel: any of its threads may send, and the other end sees what it has not read."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from fastapi_aqueduct.engine.wire.channel import Channel, make_pair
from fastapi_aqueduct.engine.wire.frames import FrameReader, Kind, pack
from fastapi_aqueduct.engine.wire.worker_channel import WorkerChannel

SIZE = 3 << 20
"""Bytes of a frame that does not fit into the socket: its sender sleeps in the middle of it."""


@pytest.fixture
def ends() -> Iterator[tuple[int, WorkerChannel]]:
    ours, theirs = make_pair()
    with closing(ours), closing(WorkerChannel(theirs)) as channel:
        yield ours.fileno(), channel


def test_frames_of_several_threads_do_not_mix(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    frames_of_each = 4

    def write(letter: bytes) -> None:
        for _ in range(frames_of_each):
            channel.send(Kind.ANSWERS, letter * SIZE)
            channel.send(Kind.RELEASED, letter)

    letters = [b"a", b"b", b"c", b"d"]
    threads = [threading.Thread(target=write, args=(letter,)) for letter in letters]
    for thread in threads:
        thread.start()
    reader = FrameReader()
    received: list[tuple[Kind, bytes]] = []
    while len(received) < 2 * frames_of_each * len(letters):
        received += reader.feed(os.read(fd, 1 << 20))
    for thread in threads:
        thread.join()
    sent = {(kind, letter * size) for letter in letters for kind, size in ((Kind.ANSWERS, SIZE), (Kind.RELEASED, 1))}
    assert Counter(received) == dict.fromkeys(sent, frames_of_each)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_frame_can_close_its_end(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    thread = threading.Thread(target=channel.send, args=(Kind.ANSWERS, b"x" * SIZE))
    thread.start()
    read = os.read(fd, 1 << 10)  # it is inside
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # the lock may never be released
        channel.close()
        try:
            channel.send(Kind.RELEASED)
        except OSError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    reader = FrameReader()
    while not reader.feed(read):
        read = os.read(fd, 1 << 20)
    thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize("size", [10, SIZE])
def test_a_worker_is_behind_until_it_has_read_all(size: int) -> None:
    ours, theirs = make_pair()
    with closing(Channel(ours, print, print, print)) as channel, closing(WorkerChannel(theirs)) as worker:
        assert not channel.is_behind()
        channel.send(pack(Kind.TASKS, bytes(size)))
        assert channel.is_behind()
        if size < SIZE:
            worker.receive()
            assert not channel.is_behind()
        else:  # a part of it waits for an event loop
            assert worker.receive(timeout=0.1) == []
            assert channel.is_behind()


def read_frames(fd: int, count: int) -> list[tuple[Kind, bytes]]:
    reader = FrameReader()
    received: list[tuple[Kind, bytes]] = []
    while len(received) < count:
        received += reader.feed(os.read(fd, 1 << 20))
    return received


def fill(channel: WorkerChannel, payload: bytes) -> int:
    """Post until too much waits; return how many frames were accepted."""
    for number in itertools.count():
        if not channel.post(Kind.LOG, payload):
            return number
    raise AssertionError


def test_a_posted_frame_is_in_the_socket_at_once(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    assert channel.post(Kind.LOG, b"record")
    assert os.read(fd, 100) == pack(Kind.LOG, b"record")


@pytest.mark.parametrize("size", [100, 50_000])
def test_posts_never_block_and_are_written_when_the_other_end_reads(ends: tuple[int, WorkerChannel], size: int) -> None:
    fd, channel = ends
    told = threading.Event()
    channel.on_space = told.set
    accepted = fill(channel, b"x" * size)
    assert (1 << 20) < accepted * size < (5 << 20)
    assert not told.is_set()
    # This thread writes nothing more, as in a long call of a handler.
    assert read_frames(fd, accepted) == [(Kind.LOG, b"x" * size)] * accepted
    assert told.wait(10)
    assert channel.post(Kind.LOG, b"last")
    assert os.read(fd, 100) == pack(Kind.LOG, b"last")


def test_posts_and_sends_of_several_threads_do_not_mix(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    posted: list[int] = []

    def post() -> None:
        posted.append(fill(channel, b"r" * 1000))

    def send() -> None:
        for _ in range(3):
            channel.send(Kind.ANSWERS, b"a" * SIZE)

    threads = [threading.Thread(target=function) for function in (post, send, post)]
    for thread in threads:
        thread.start()
    reader = FrameReader()
    received: list[tuple[Kind, bytes]] = []
    while len(posted) < 2 or len(received) < 3 + sum(posted):
        received += reader.feed(os.read(fd, 1 << 20))
    for thread in threads:
        thread.join()
    assert Counter(received) == {(Kind.ANSWERS, b"a" * SIZE): 3, (Kind.LOG, b"r" * 1000): sum(posted)}


def test_what_was_posted_before_a_frame_is_sent_before_it(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    accepted = fill(channel, b"x" * 1000)
    thread = threading.Thread(target=channel.send, args=(Kind.ANSWERS, b"answer"))
    thread.start()
    *records, answer = read_frames(fd, accepted + 1)
    thread.join()
    assert answer == (Kind.ANSWERS, b"answer")
    assert len(records) == accepted


def test_a_signal_handler_may_post_while_the_interrupted_code_writes(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    posted: list[bool] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: posted.append(channel.post(Kind.LOG, b"from the handler")))
    frames: list[tuple[Kind, bytes]] = []
    thread = threading.Thread(target=signal_in_the_middle, args=(fd, frames))
    thread.start()
    try:
        channel.send(Kind.ANSWERS, b"x" * SIZE)  # sleeps in the middle of it
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    assert posted == [True]
    assert frames == [(Kind.ANSWERS, b"x" * SIZE), (Kind.LOG, b"from the handler")]


def signal_in_the_middle(fd: int, frames: list[tuple[Kind, bytes]]) -> None:
    reader = FrameReader()
    frames += reader.feed(os.read(fd, 1 << 10))
    os.kill(os.getpid(), signal.SIGUSR2)
    while len(frames) < 2:
        frames += reader.feed(os.read(fd, 1 << 20))


def test_the_end_of_a_worker_waits_for_its_posts_for_a_limited_time(ends: tuple[int, WorkerChannel]) -> None:
    fd, channel = ends
    accepted = fill(channel, b"x" * 1000)
    channel.finish_posts(0.05)
    assert not channel.post(Kind.LOG, b"x" * 1000)
    thread = threading.Thread(target=channel.finish_posts, args=(20.0,))
    thread.start()
    assert len(read_frames(fd, accepted)) == accepted
    thread.join()


def test_a_post_reports_the_end_of_the_api_process() -> None:
    ours, theirs = make_pair()
    with closing(WorkerChannel(theirs)) as channel:
        ours.close()
        with pytest.raises(BrokenPipeError):
            channel.post(Kind.LOG, b"record")
