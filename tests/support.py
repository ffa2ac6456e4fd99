"""What the tests share on the side of the API process. What runs in workers is in `handlers`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastapi_aqueduct import Flow
from fastapi_aqueduct.engine.engine import LocalEngine
from fastapi_aqueduct.engine.memory.mapping import MEMORY_PREFIX
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.statistics import FlowStatistics
from fastapi_aqueduct.step import Part
from fastapi_aqueduct.testing import inline

from .handlers import Gate, Job, nothing
from .shared.pipeline import in_a_pipeline, pipeline_of

ROOT = Path(__file__).resolve().parent.parent
"""Where the package and the tests can be imported from."""

DEADLINE = 60.0
"""Seconds after which something that should happen at once has not happened, on the slowest machine."""


def forked(*steps: Part, **options: Any) -> Flow:
    """Make a flow whose workers come from the forkserver, for tests in which the start method does not matter.

    A worker takes a quarter of the processor time of a spawned one, which is what a flow has by default.
    """
    return Flow(*steps, mp_start_method="forkserver", **options)


ZOMBIE = "(zombie)"
"""Describes a process that has ended and that its parent has not reaped yet."""


@contextlib.asynccontextmanager
async def running(flow: Flow, start_timeout: float | None = None) -> AsyncIterator[Flow]:
    """Run a flow, in processes or threads as `WORKERS` says; at the end no block of shared memory may be held.

    Tasks and views that the test still names are holds: they go out of scope first.

    Args:
        flow: The flow.
        start_timeout: Seconds in which its first workers must be ready; None: as for all others.
    """
    with engine(flow):
        await flow.start_async(start_timeout)
        try:
            yield flow
            await eventually(lambda: blocks(flow) == 0)
        except BaseException:
            await flow.stop(graceful=False)  # what a failed test left in a handler would be waited for
            raise
        await flow.stop()


def engine(flow: Flow) -> contextlib.AbstractContextManager[object]:
    """Give a flow that is started in the context the engine that `WORKERS` asks for."""
    if WORKERS.are_threads:
        return inline(flow)
    if WORKERS.are_shared:
        return in_a_pipeline(flow)
    if WORKERS.have_template:
        return flow._lifecycle.built_by(lambda options: LocalEngine.build(replace(options, template=nothing)))
    return contextlib.nullcontext()


@dataclass
class Workers:
    """What workers are in the present test.

    Attributes:
        are_threads: Whether they are threads of the test's process and not processes.
        have_template: Whether they are forked from a template.
        are_shared: Whether they are of a pipeline that the flow reaches over a connection, as threads.
    """

    are_threads: bool = False
    have_template: bool = False
    are_shared: bool = False


WORKERS = Workers()


def engine_of(flow: Flow) -> LocalEngine:
    """Return the parts of a running flow, for state that the statistics do not show."""
    engine = flow._lifecycle.engine
    if isinstance(engine, RemoteEngine):
        return pipeline_of(engine).engine
    assert isinstance(engine, LocalEngine)
    return engine


def contenders(flow: Flow) -> int:
    """Count the callers and bodies that wait for a place in the first queue."""
    return engine_of(flow).dispatcher.stages[0].waiters.contenders


def blocks(flow: Flow) -> int:
    """Count the blocks of shared memory that are held."""
    gc.collect()
    return flow.statistics().arena.blocks


async def fresh(flow: Flow) -> None:
    """Wait until this process has the statistics of a pipeline elsewhere, and that one what was returned to it."""
    engine = flow._lifecycle.engine
    if isinstance(engine, RemoteEngine):
        there = pipeline_of(engine).engine
        await eventually(lambda: _counts(flow.statistics()) == _counts(there.statistics("")))


def _counts(found: FlowStatistics) -> tuple[int, ...]:
    gc.collect()
    return found.completed, found.failed, found.cancelled, found.in_flight, found.arena.blocks


def pids(flow: Flow, step: int = 0) -> list[int]:
    """List the workers of a step that are ready."""
    return [worker.pid for worker in flow.statistics().steps[step].workers if worker.pid and worker.state == "ready"]


async def eventually(condition: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Wait until a condition is true that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"did not come about in {timeout} s"
        await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], object], timeout: float) -> bool:
    """Wait without an event loop; tell whether it came about in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.asynccontextmanager
async def busy(flow: Flow, gate: Gate, **fields: Any) -> AsyncIterator[None]:
    """Hold the only worker of the first step inside the handler."""
    held = asyncio.create_task(flow.process(Job(gate=gate, **fields), 60))
    await eventually(gate.is_entered)
    yield
    gate.open()
    await held


async def get_ahead(flow: Flow) -> None:
    """Process tasks whose calls take no time, until the only worker of the first step is given tasks ahead."""
    (worker,) = engine_of(flow).dispatcher.stages[0].workers
    while worker.in_flight.prefetch == 1:  # a busy machine may take the processor away in some of the calls
        await flow.process(Job(), DEADLINE)


async def outcome(awaitable: Any) -> Any:
    """Return what an awaitable returns or raises."""
    try:
        return await awaitable
    except Exception as exc:
        return exc


class LongestGap:
    """The longest time that an event loop did not get round, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> LongestGap:
        self._watch = asyncio.create_task(self._measure())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._watch.cancel()
        await asyncio.wait([self._watch])

    async def _measure(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            self.seconds = max(self.seconds, now - last - 0.005)
            last = now


def script_environment() -> dict[str, str]:
    """Return the environment for a script that imports the package and the tests."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def members_of_session(session: int) -> list[int]:
    """Return the processes of a session: those that a command has started, in whatever group they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(path.parent.name))
    return found


def write_script(directory: Path, source: str, name: str = "main.py") -> Path:
    """Write a script of a user."""
    path = directory / name
    path.write_text(textwrap.dedent(source))
    return path


def run_script(directory: Path, source: str, *arguments: str, timeout: float = DEADLINE) -> str:
    """Run a script of a user as ``python main.py`` and return what it prints; it must succeed."""
    write_script(directory, source)
    done = subprocess.run(
        [sys.executable, "-W", "error", *(arguments or ["main.py"])],
        cwd=directory,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def check_types(module: Path) -> str:
    """Run mypy on a module, or the modules of a directory, and return its errors.

    It runs in a process of its own: in this one, what it keeps would slow down each later collection of garbage.
    """
    options = ["--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, module.name],
        cwd=module.parent,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


class Ends:
    """Watches processes that need not be our children, to see when they end.

    Args:
        pids: Processes that are alive.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds = {os.pidfd_open(pid): pid for pid in pids}

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pidfd in self._pidfds:
            os.close(pidfd)

    def wait(self, timeout: float) -> set[int]:
        """Wait until all have ended and return those that have not in time."""
        deadline = time.monotonic() + timeout
        alive = dict(self._pidfds)
        while alive:
            ended = select.select(list(alive), [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ended:
                break
            for pidfd in ended:
                del alive[pidfd]
        return set(alive.values())


class Traces(NamedTuple):
    """What a test may leave on the machine."""

    processes: set[str]
    descriptors: set[str]
    shared_memory: set[str]

    def __sub__(self, other: Traces) -> Traces:
        return Traces(
            self.processes - other.processes,
            self.descriptors - other.descriptors,
            self.shared_memory - other.shared_memory,
        )


def traces() -> Traces:
    """List the descendants of this process, its descriptors, and files in shared memory under a name of the package.

    Files of other names may belong to other programs, and to tests that run at the same time.
    """
    named = {name for name in os.listdir("/dev/shm") if name.startswith(MEMORY_PREFIX)}
    return Traces(_descendants(), _descriptors(), named)


def _descendants() -> set[str]:
    # Every test looks at every process of the machine, twice or more: `pathlib` would take three times as long.
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                # The command, in parentheses, may contain anything.
                command, _, rest = file.read(1024).rpartition(b")")
                names[int(name)] = command.partition(b"(")[2].decode(errors="replace")
                parents[int(name)] = int(rest.split(None, 2)[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {_describe(pid, names[pid], parents[pid]) for pid in family - {os.getpid()}}


def _describe(pid: int, name: str, parent: int) -> str:
    return f"{pid} {_command(pid) or f'{name}, child of {parent} {_command(parent)} {ZOMBIE}'}"


def _command(pid: int) -> str:
    """Return the command line of a process; "" for a zombie."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return command.replace(b"\0", b" ").decode(errors="replace").strip()[:200]


def _descriptors() -> set[str]:
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith("/proc/"):  # the listing itself
                found.add(f"{name} -> {target}")
    return found
