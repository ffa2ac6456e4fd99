"""The two ends of a connection between an API process and a pipeline process, in one event loop; and processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.wire.channel import Channel, make_pair
from fastapi_aqueduct.engine.wire.frames import Kind, pack

from ..asgi.service import children

Receive = Callable[[Kind, bytes], None]


class End:
    """One end: sends frames, and passes on what arrives.

    Attributes:
        number: The number of the API process.
        receive: Called with each frame that arrives.
        is_stuck: Whether it counts as behind.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.receive: Receive = lambda kind, payload: None
        self.is_stuck = False
        self.has_ended = asyncio.Event()
        self.channel: Channel

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send a frame."""
        self.channel.send(pack(kind, payload))

    def lend(self, blocks: Iterable[Ref]) -> None:
        """Lend nothing: there is no memory."""

    def is_behind(self) -> bool:
        """Tell whether the other end does not read."""
        return self.is_stuck

    def is_swamped(self) -> bool:
        """Tell whether the other end does not read."""
        return self.is_stuck

    def on_frames(self, frames: list[tuple[Kind, bytes]]) -> None:
        for kind, payload in frames:
            self.receive(kind, payload)


@contextlib.contextmanager
def connection(number: int = 1) -> Iterator[tuple[End, End]]:
    """Connect an API process with a pipeline process; the ends are in this order."""
    loop = asyncio.get_running_loop()
    ends = End(number), End(number)
    for end, sock in zip(ends, make_pair(), strict=True):
        end.channel = Channel(sock, end.on_frames, end.has_ended.set, lambda error: None)
        end.channel.attach(loop)
    try:
        yield ends
    finally:
        for end in ends:
            end.channel.close()


def processes(directory: Path) -> list[int]:
    """List the processes whose environment names a directory: those of a server, its pipelines and their workers."""
    return [pid for pid, _ in _processes(directory)]


def pipelines(directory: Path) -> list[int]:
    """List the pipeline processes among them, also those whose parents have ended."""
    return [pid for pid, command in _processes(directory) if b"shared.process" in command]


def kill_one_of(kind: str, directory: Path, chance: random.Random) -> str:
    """Kill a worker or a pipeline process, or stop the latter for a moment ("hang"); return the kind."""
    running = pipelines(directory)
    victims = [child for pid in running for child in children(pid)] if kind == "worker" else running
    if victims:
        with contextlib.suppress(ProcessLookupError):
            victim = chance.choice(victims)
            os.kill(victim, signal.SIGSTOP if kind == "hang" else signal.SIGKILL)
            if kind == "hang":
                time.sleep(chance.uniform(0, 1))
                os.kill(victim, signal.SIGCONT)
    return kind


def _processes(directory: Path) -> list[tuple[int, bytes]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()  # none: it has ended
            if command and os.fsencode(directory) in (path.parent / "environ").read_bytes():
                found.append((int(path.parent.name), command))
    return found


@contextlib.contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """Leave this process a number of descriptors that it can open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        taken = [os.dup(0) for _ in range(count + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        for fd in taken:
            stack.callback(os.close, fd)
        yield
