"""What a flow adds to a server that has nothing to do: to its start, its memory and its stop."""

from __future__ import annotations

import contextlib
import http.client
import os
import selectors
import signal
import socket
import tempfile
import time
from dataclasses import dataclass

from .processes import MIB, Footprint, tree
from .report import Promise, Report, Series
from .subject import DEADLINE, Subject

ROUNDS = 7
POLL_INTERVAL = 0.005

FLOOR = "FastAPI alone"
FLOOR_NUMPY = "FastAPI alone, its module imports numpy"
PLAIN = "fastapi_aqueduct"
NUMPY = "fastapi_aqueduct, its handler's module imports numpy"
APPS = {
    FLOOR: "idle_floor:make_plain",
    FLOOR_NUMPY: "idle_floor:make_with_numpy",
    PLAIN: "idle_ours:make_plain",
    NUMPY: "idle_ours:make_with_numpy",
    "aqueduct with its integration": "idle_aqueduct:make_plain",
}
"""Functions that make the applications. A handler's module is imported in the API process too, so what its worker
costs is seen against an application that imports the same."""

MOST_START = 0.4
MOST_MEMORY = 25.0
MOST_STOP = 0.3


@dataclass(frozen=True)
class Life:
    """What was seen of one server.

    Attributes:
        start: Seconds from its start to its first answer.
        memory: Bytes of all its processes then.
        stop: Seconds from SIGTERM until the last of them had ended.
    """

    start: float
    memory: int
    stop: float


def measure() -> Report:
    """Start and stop each of them in turns."""
    lives: dict[str, list[Life]] = {name: [] for name in APPS}
    for _ in range(ROUNDS):
        for name, factory in APPS.items():
            lives[name].append(_live(factory))
    starts = {name: Series(name, [life.start for life in lived], 2, START) for name, lived in lives.items()}
    memory = {name: Series(name, [life.memory / MIB for life in lived], 1, MEMORY) for name, lived in lives.items()}
    stops = {name: Series(name, [life.stop for life in lived], 2, STOP) for name, lived in lives.items()}
    return Report(
        title="startup: a uvicorn server with nothing to do, one worker",
        notes=[
            "memory: PSS after the first answer, shared memory counted once",
            "the stop ends when the last of its processes has ended",
        ],
        rows=[*starts.values(), *memory.values(), *stops.values()],
        promises=[
            Promise(_beyond(series, name, floor), limit)
            for series, limit in ((starts, MOST_START), (memory, MOST_MEMORY), (stops, MOST_STOP))
            for name, floor in ((PLAIN, FLOOR), (NUMPY, FLOOR_NUMPY))
        ],
    )


START = "start to first answer, s"
MEMORY = "idle memory, MiB"
STOP = "SIGTERM to exit, s"


def _beyond(series: dict[str, Series], name: str, floor: str) -> Series:
    return series[name].minus(series[floor], f"{series[name].unit}: {name} - {floor}")


def _live(factory: str) -> Life:
    port = _free_port()
    app = f"{__package__}.subjects.{factory}"
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        with Subject("-m", "uvicorn", "--factory", app, "--port", port, "--log-level", "warning", log=log) as subject:
            try:
                _wait_for_answer(subject, port)
            except RuntimeError as exc:
                raise RuntimeError(f"{factory}: {exc}\n{subject.read_log()}") from exc
            answered = time.monotonic()
            pids = tree(subject.pid)
            memory = Footprint(pids).total
            stopped = time.monotonic()
            subject.signal(signal.SIGTERM)
            _wait_for_end(pids)
            return Life(answered - started, memory, time.monotonic() - stopped)


def _wait_for_answer(subject: Subject, port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
            try:
                connection.request("GET", "/answer")
                answer = connection.getresponse()
                if answer.read() != b"1":
                    raise RuntimeError(f"the answer has status {answer.status}")
                return
            except OSError as exc:
                if time.monotonic() > deadline or not subject.is_alive:
                    raise RuntimeError(f"no answer: {exc}") from exc
        time.sleep(POLL_INTERVAL)


def _wait_for_end(pids: list[int]) -> None:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                selector.register(descriptor, selectors.EVENT_READ)
        deadline = time.monotonic() + DEADLINE
        while selector.get_map():
            ended = selector.select(deadline - time.monotonic())
            if not ended:
                raise RuntimeError(f"processes are left {DEADLINE:.0f} s after SIGTERM")
            for key, _ in ended:
                selector.unregister(key.fileobj)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
