"""What the tests of reliability run in worker processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler
from fastapi_aqueduct.engine.child.trace import DUMP_SIGNAL

from ..handlers import Each, Gate, note, raise_error

ROOM = 64 << 20
"""Bytes of address space that a worker has left once it is short of memory."""


class Fate:
    """What may happen to a worker.

    Args:
        name: A signal, ``exit0``, ``exit3``, ``memory`` or ``exception``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def befall(self) -> None:
        """Let it happen to this process."""
        if self.name.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.name])
        elif self.name.startswith("exit"):
            os._exit(int(self.name.removeprefix("exit")))
        elif self.name == "memory":
            run_out_of_memory()
        else:
            raise ValueError("a bad day")


class Explosive:
    """A result that does something to its worker while the answer is made."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate

    def __reduce__(self) -> tuple[Any, ...]:
        self.fate.befall()
        return Explosive, (self.fate,)


class Fated(BaseTaskHandler):
    """Meets the fate that a field of the task, or a file of the test, names.

    Args:
        directory: Where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_start(self) -> None:
        signal.signal(signal.SIGUSR2, self._meet_idle)
        self._meet("starting")

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            fate, place = task.fate, task.place
            task.answer = task.payload[::-1]
            task.pid = os.getpid()
            if place == "in handle":
                fate.befall()
            elif place == "before reply":
                task.result = Explosive(fate)

    def on_stop(self) -> None:
        # Not taken away: it happens to every worker.
        self._meet("stopping", is_for_all=True)

    def _meet_idle(self, signum: int, frame: FrameType | None) -> None:
        self._meet(f"idle-{os.getpid()}")

    def _meet(self, place: str, is_for_all: bool = False) -> None:
        path = self.directory / place
        try:
            fate = Fate(path.read_text())
            if not is_for_all:
                path.unlink()
        except FileNotFoundError:
            return
        fate.befall()


class FatedTask(BaseTask):
    """A task with a large field, and perhaps a fate."""

    def __init__(self, payload: bytes, fate: Fate | None = None, place: str = "") -> None:
        super().__init__()
        self.payload = payload
        self.fate = fate
        self.place = place
        self.answer = b""
        self.pid = 0


def run_out_of_memory() -> None:
    """Have this process short of address space for good, and ask for more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    bytearray(4 * ROOM)


class Stopping(BaseTaskHandler):
    """Does its work, and never leaves by itself."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()

    def on_stop(self) -> None:
        threading.Event().wait()


class Deaf(BaseTaskHandler):
    """Hears no SIGTERM, and writes down when it leaves in order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if task.gate is not None:
                task.gate.enter()

    def on_stop(self) -> None:
        note(self.path, os.getpid())


class Leaking(BaseTaskHandler):
    """Grows with every task."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.leak: list[bytes] = []

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()
            self.leak.append(os.urandom(self.size))


class SlowToLoad(BaseTaskHandler):
    """Cannot start as long as a file is there; notes in another one, if there is one, when a start begins and ends."""

    def __init__(self, path: Path, starts: Path | None = None) -> None:
        self.path = path
        self.starts = starts

    def on_start(self) -> None:
        self._note("begins")
        while self.path.exists():
            time.sleep(0.002)
        self._note("ends")

    def _note(self, what: str) -> None:
        if self.starts is not None:
            note(self.starts, what)

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()


class LoadingAtGate(BaseTaskHandler):
    """Waits at a gate when it starts, and does nothing with its tasks."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_start(self) -> None:
        self.gate.enter()

    def handle(self, *tasks: Any) -> None:
        pass


class StartingAndGate(SlowToLoad):
    """Cannot start as long as a file is there, and waits at the gate of a task."""

    def handle(self, *tasks: Any) -> None:
        super().handle(*tasks)
        for task in tasks:
            task.gate.enter()


class Dying(BaseTaskHandler):
    """Dies by itself as long as a file is there, and notes each start.

    Args:
        path: Where starts are noted.
        doomed: The file.
        in_start: Whether it dies in `on_start`, or as soon as it is ready.
    """

    def __init__(self, path: Path, doomed: Path, in_start: bool = False) -> None:
        self.path = path
        self.doomed = doomed
        self.in_start = in_start

    def on_start(self) -> None:
        note(self.path, "start")
        if self.doomed.exists():
            if self.in_start:
                raise RuntimeError("no model here")
            threading.Timer(0.01, os._exit, [1]).start()

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()


class YieldingArrays(BaseTaskHandler):
    """Yields arrays of the size of the task, each filled with its number."""

    def on_start(self) -> None:
        import numpy  # noqa: F401  # as in `Pictures`

    def handle(self, task: Any) -> Any:
        import numpy as np

        for number in range(task.count):
            yield np.full(task.size, number, np.uint8)
        task.total = task.count


class Reciting(BaseTaskHandler):
    """Yields lines of a task, each with the name of this part: the caller sees one that is not in its place.

    Args:
        part: The name.
    """

    def __init__(self, part: str) -> None:
        self.part = part

    def on_start(self) -> None:
        import numpy  # noqa: F401  # as in `Pictures`

    def handle(self, task: Any) -> Any:
        for index in range(task.count):
            yield make_line(task, self.part, index)
        task.parts = (*task.parts, self.part)


class AsyncReciting(Reciting):
    """The same in an event loop."""

    async def handle(self, task: Any) -> Any:
        import asyncio

        for index in range(task.count):
            if index % 8 == 0:
                await asyncio.sleep(0.001)
            yield make_line(task, self.part, index)
        task.parts = (*task.parts, self.part)


class RecitingInRounds(Reciting):
    """The same in rounds."""

    def handle(self, *tasks: Any) -> None:
        indices = dict.fromkeys([task.task_id for task in tasks], 0)
        for live in self.rounds(tasks):
            for task in live:
                index = indices.setdefault(task.task_id, 0)
                indices[task.task_id] += 1
                if index < task.count:
                    task.emit(make_line(task, self.part, index))
                else:
                    task.parts = (*task.parts, self.part)
                    task.finish()


def make_line(task: Any, part: str, index: int) -> tuple[str, int, int, Any]:
    """Make an item; every fourth one has an array that travels in shared memory."""
    import numpy as np

    picture = np.full(20_000, (task.number + index) % 251, np.uint8) if index % 4 == 3 else None
    return part, task.number, index, picture


# Functions of tasks


def write_to_channel(data: bytes) -> None:
    """Write into the channel of this worker: the only connected socket it has."""
    for name in os.listdir("/proc/self/fd"):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
        if is_socket:
            os.write(int(name), data)
            return
    raise RuntimeError("this process has no socket")


class Babbling(BaseTaskHandler):
    """Writes what a task tells it into the channel of its worker, before it answers."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if task.garbage:
                write_to_channel(task.garbage)
            task.number += 1


class Pictures(Each):
    """Loads numpy before the worker is ready, as a handler that works on pictures does.

    The import takes 0.3 s where all cores are busy; in the first call it counts toward ``handle_timeout``.
    """

    def on_start(self) -> None:
        import numpy  # noqa: F401


def invert(task: Any) -> None:
    """Answer a picture with its negative."""
    task.image = 255 - task.image


def work(task: Any) -> None:
    """Take as long as the task says."""
    time.sleep(task.seconds)
    task.pid = os.getpid()


def meet_fate(task: Any) -> None:
    if task.fate is not None:
        note(task.path, os.getpid())
        task.fate.befall()
    task.pid = os.getpid()


def meet_fate_once(task: Any) -> None:
    """Let it happen to the first worker that has the task."""
    note(task.path, os.getpid())
    task.pid = os.getpid()
    try:
        os.unlink(task.trap)
    except FileNotFoundError:
        return
    task.fate.befall()


def hold_the_interpreter(task: Any) -> None:
    """Stay in one call in C that lets no other thread run."""
    Path(task.path).touch()
    sum(range(task.rounds))


def stop_itself(task: Any) -> None:
    Path(task.path).touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_dump_signal() -> None:
    """Go on when this worker has been told to write its stack: it is about to be killed, a little later."""
    told = threading.Event()
    signal.signal(DUMP_SIGNAL, lambda *_: told.set())
    while not told.is_set():
        time.sleep(0.01)


def answer_too_late(task: Any) -> None:
    """Answer only just too late, or take as long as the task says."""
    if task.seconds is None:
        wait_for_dump_signal()
        task.pid = os.getpid()
    else:
        work(task)


def fork_and_wait(task: Any) -> None:
    """Start a child that outlives the task and has a copy of every descriptor."""
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    note(task.path, child)
    task.child = child


def fork_and_spin(task: Any) -> None:
    fork_and_wait(task)
    while True:
        pass


def use_the_terminal(task: Any) -> None:
    """Write to the terminal and read from it, which a process in the background should not."""
    print("written", file=sys.stderr, flush=True)
    try:
        with open("/dev/tty") as terminal:
            task.read = terminal.readline()
    except OSError as exc:
        task.read = type(exc).__name__


def use_children(task: Any) -> None:
    """Use other processes the ways people do."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    task.echo = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True).stdout
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        task.power = pool.submit(pow, 2, 10).result()
    queue = context.Queue()
    child = context.Process(target=queue.put, args=("hello",), daemon=True)
    child.start()
    task.message = queue.get(timeout=20)
    child.join()
    task.exit_code = child.exitcode
    queue.close()
    queue.join_thread()


# Functions of batches


def spoil_and_fail(*tasks: Any) -> None:
    """Change every task, then fail because of a bad one."""
    for task in tasks:
        task.number += 1000
        task.words.append("spoiled")
        task.image = task.image[:10].copy() + 1
        task.payload = b"spoiled"
        task.extra = True
    if any(task.is_bad for task in tasks):
        raise ValueError("a bad one among them")
    for task in tasks:
        task.batch = len(tasks)


def fail_together_work_alone(*tasks: Any) -> None:
    if len(tasks) > 1:
        raise ValueError("not together")
    for task in tasks:
        work(task)


def die_together(*tasks: Any) -> None:
    """Die with the whole batch; alone, only a bad task is fatal."""
    if any(task.is_bad for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    for task in tasks:
        task.batch = len(tasks)


def raise_if_told(task: Any) -> None:
    if task.error:
        raise_error(task)


def spin_or_work(task: Any) -> None:
    if task.seconds is None:
        Path(task.path).touch()
        while True:
            pass
    work(task)


class Parcel:
    """A value that takes its time when it is unpacked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(self.seconds)


class Lethal:
    """A value that ends any process but one that unpacks it.

    Args:
        pid: The process it spares.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.pid:
            os._exit(9)


def fill(job: Any) -> None:
    """Take some megabytes, piece by piece, and free them."""
    assert len([b"x" * (1 << 20) for _ in range(job.size)]) == job.size
