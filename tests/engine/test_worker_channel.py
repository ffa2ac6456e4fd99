"""A worker's end of a channel: any of its threads may send, and the other end sees what it has not read."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from fastapi_aqueduct.engine.wire.channel import Channel, WorkerChannel, make_pair
from fastapi_aqueduct.engine.wire.frames import FrameReader, Kind, pack

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
