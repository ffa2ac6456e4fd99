"""The processes that a handler makes end with their worker, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.child.process_group import signal_members
from fastapi_aqueduct.engine.workers.group import GRACE

from ..handlers import Each, Job, notes, spin
from ..support import (
    DEADLINE,
    Ends,
    eventually,
    outcome,
    pids,
    run_script,
    running,
    script_environment,
    wait_until,
    write_script,
)
from .children import Parent, fork_pool, polite, spawn_pool, stubborn
from .conftest import Note

METHODS: list[Literal["spawn", "forkserver"]] = ["spawn", "forkserver"]

long = partial(pytest.param, marks=pytest.mark.long)


async def kill_worker(flow: Flow) -> None:
    os.kill(pids(flow)[0], signal.SIGKILL)


async def terminate_worker(flow: Flow) -> None:
    os.kill(pids(flow)[0], signal.SIGTERM)


async def wear_out(flow: Flow) -> None:
    worn = pids(flow)
    await flow.process(Job(), 60)
    await eventually(lambda: pids(flow) and pids(flow) != worn)


async def hang(flow: Flow) -> None:
    await outcome(flow.process(Job(function=spin, path=os.devnull), 60))


async def stop(flow: Flow) -> None:
    await flow.stop()


async def stop_at_once(flow: Flow) -> None:
    await flow.stop(graceful=False)


@pytest.mark.parametrize(
    ("method", "end"),
    [
        *[("spawn", end) for end in (kill_worker, terminate_worker, wear_out, hang, stop, stop_at_once)],
        ("forkserver", kill_worker),
        *[long("forkserver", end) for end in (wear_out, hang, stop, stop_at_once)],
    ],
)
async def test_children_end_with_their_worker(
    tmp_path: Path, method: Literal["spawn", "forkserver"], end: Callable[[Flow], Any]
) -> None:
    handler = Parent(tmp_path, polite, stubborn, fork_pool)
    step = FlowStep(handler, handle_timeout=1.0, max_tasks=2 if end is wear_out else None, max_retries=0)
    flow = Flow(step, mp_start_method=method)
    await flow.start_async()
    try:
        children = (await flow.process(Job(), 60)).children
        with Ends(children) as ends:
            await end(flow)
            assert await asyncio.to_thread(ends.wait, DEADLINE) == set()
    finally:
        await flow.stop(graceful=False)
    assert end is stop_at_once or set(notes(tmp_path / "terminated")) == {str(children[0])}


@pytest.mark.parametrize("method", METHODS)
async def test_they_get_time_to_end_by_themselves(tmp_path: Path, method: Literal["spawn", "forkserver"]) -> None:
    """And what multiprocessing has to clean up after them gets more: their semaphores must not stay.

    Under the forkserver it is the server's own, which does so at the end of the server.
    """
    kinds = [polite, stubborn, spawn_pool] if method == "spawn" else [polite, stubborn]
    async with running(Flow(FlowStep(Parent(tmp_path, *kinds)), mp_start_method=method)) as flow:
        polite_one, stubborn_one, *_ = (await flow.process(Job(), 60)).children
        with Ends([polite_one]) as polite_ends, Ends([stubborn_one]) as stubborn_ends:
            killed_at = time.monotonic()
            await kill_worker(flow)
            assert await asyncio.to_thread(stubborn_ends.wait, DEADLINE) == set()
            assert time.monotonic() - killed_at >= GRACE
            assert polite_ends.wait(0.0) == set()
    assert notes(tmp_path / "terminated") == [str(polite_one)]


async def test_a_stop_returns_when_they_are_killed_and_not_before(tmp_path: Path) -> None:
    async with Flow(Parent(tmp_path, stubborn)) as flow:
        children = (await flow.process(Job(), 60)).children
        ends = Ends(children)
    with ends:
        assert ends.wait(0.2) == set()


async def test_a_stop_does_not_wait_where_no_child_is_left() -> None:
    times = []
    for _ in range(10):  # another program may take the processor away meanwhile
        async with Flow(Each(spin)) as flow:
            started = time.monotonic()
            await flow.stop()
            times.append(time.monotonic() - started)
        if times[-1] < GRACE:
            return
    pytest.fail(f"stops took {times} s")


# The death of the server

SERVER = """
    import asyncio
    from pathlib import Path
    from fastapi_aqueduct import Flow, FlowStep
    from tests.handlers import Job, spin
    from tests.reliability.children import *
    from tests.reliability.handlers import hold_the_interpreter

    async def main():
        flow = Flow(FlowStep(Parent(Path(), {kinds})), mp_start_method="{method}")
        await flow.start_async()
        task = await flow.process(Job(), 60)
        if {function} is not None:
            call = asyncio.create_task(flow.process(Job(function={function}, path="begun", rounds=10**10), 60))
            while not Path("begun").exists():
                await asyncio.sleep(0.005)
        print(task.pid, *task.children, flush=True)
        {last}

    if __name__ == "__main__":
        asyncio.run(main())
"""


@contextlib.contextmanager
def server(directory: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a server in a session of its own; give the process, and its worker with the children."""
    settings = {"kinds": "polite, stubborn", "function": None, "last": "await asyncio.Event().wait()", **settings}
    script = write_script(directory, SERVER.format(**settings))
    with subprocess.Popen(
        [sys.executable, script.name],
        cwd=directory,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, [int(pid) for pid in process.stdout.readline().split()]
        finally:
            process.kill()


def is_idle(pid: int) -> bool:
    """Tell whether a worker has had no task for a while: no descriptor of it is set to kill it (FASYNC)."""
    flags = [info.read_text().split("flags:")[1].split()[0] for info in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return not any(int(flag, 8) & os.O_ASYNC for flag in flags)


@pytest.mark.parametrize("method", ["spawn", long("forkserver")])
def test_an_idle_worker_whose_server_was_killed_stops_in_order(tmp_path: Path, method: str) -> None:
    """`on_stop` runs; then its children have half a second after SIGTERM."""
    with server(tmp_path, method=method, kinds="polite, stubborn, fork_pool, spawn_pool") as (process, family):
        worker, polite_one = family[:2]
        assert wait_until(lambda: is_idle(worker), DEADLINE)
        with Ends(family) as ends:
            process.kill()
            assert ends.wait(DEADLINE) == set()
        assert notes(tmp_path / "stopped") == [str(worker)]
        assert notes(tmp_path / "terminated") == [str(polite_one)]


@pytest.mark.parametrize(
    ("function", "method"),
    [
        *[("hold_the_interpreter", method) for method in METHODS],
        *[long("spin", method) for method in METHODS],
    ],
)
def test_a_busy_worker_whose_server_was_killed_is_killed_with_its_children(
    tmp_path: Path, function: str, method: str, note_figure: Note
) -> None:
    """Also in C code that holds the interpreter's lock, where no thread of the worker runs."""
    with server(tmp_path, method=method, function=function) as (process, family), Ends(family) as ends:
        started = time.monotonic()
        process.kill()
        assert ends.wait(DEADLINE) == set()
        note_figure(f"worker in {function} and its children gone, {method}", f"{time.monotonic() - started:.3f} s")


@pytest.mark.parametrize("method", ["spawn", long("forkserver")])
@pytest.mark.parametrize("function", [None, "hold_the_interpreter"])
def test_children_end_with_an_interpreter_that_never_stopped_its_flow(
    tmp_path: Path, method: str, function: str | None
) -> None:
    last = "while not Path('go').exists(): await asyncio.sleep(0.005)"
    with server(tmp_path, method=method, function=function, last=last) as (process, family), Ends(family) as ends:
        assert function or wait_until(lambda: is_idle(family[0]), DEADLINE)
        (tmp_path / "go").touch()
        assert process.wait(DEADLINE) == 0
        assert ends.wait(DEADLINE) == set()
    assert notes(tmp_path / "stopped") == ([] if function else [str(family[0])])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_of_the_server_does_not_reach_workers(tmp_path: Path, signum: signal.Signals) -> None:
    """What a terminal sends, and what `kill -- -pid` does; they end when the server does, and in order."""
    with server(tmp_path, method="spawn", kinds="polite") as (process, family), Ends(family) as ends:
        assert wait_until(lambda: is_idle(family[0]), DEADLINE)
        os.killpg(process.pid, signum)
        assert ends.wait(DEADLINE) == set()
    assert notes(tmp_path / "stopped") == [str(family[0])]
    assert notes(tmp_path / "terminated") == [str(family[1])]


# Numbers of groups


def test_a_group_without_its_leader_is_signalled_and_a_stranger_is_not() -> None:
    """A number that a process has again is not the number of what is left of the old group."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with leader:
        assert leader.stdin is not None and leader.stdout is not None
        with Ends([int(leader.stdout.readline())]) as ends:
            assert not signal_members(leader.pid, signal.SIGKILL)  # to us it is a stranger: it has a status to be read
            leader.stdin.close()
            assert leader.wait(DEADLINE) == 1
            assert signal_members(leader.pid, 0)
            assert signal_members(leader.pid, signal.SIGKILL)
            assert ends.wait(DEADLINE) == set()
    assert wait_until(lambda: not signal_members(leader.pid, 0), DEADLINE)


def test_a_server_that_inherits_orphans_reaps_those_of_its_workers(tmp_path: Path) -> None:
    """As process 1 of a container does; zombies there stay until the container ends."""
    source = """
        import asyncio
        import ctypes
        import logging
        import os
        import signal
        from pathlib import Path
        from fastapi_aqueduct import Flow, FlowStep
        from tests.handlers import Job
        from tests.reliability.children import Parent, polite, stubborn

        async def main():
            PR_SET_CHILD_SUBREAPER = 36
            assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
            async with Flow(Parent(Path(), polite, stubborn)) as flow:
                job = await flow.process(Job(), 60)
                logging.disable()
                os.kill(job.pid, signal.SIGKILL)
                async with asyncio.timeout(20):
                    while any(Path(f"/proc/{pid}").exists() for pid in job.children):
                        await asyncio.sleep(0.005)

        if __name__ == "__main__":
            asyncio.run(main())
    """
    assert run_script(tmp_path, source) == ""


def test_a_terminal_that_stops_what_writes_in_the_background_does_not_stop_a_worker(tmp_path: Path) -> None:
    source = """
        import asyncio
        import sys
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, Job
        from tests.reliability.handlers import use_the_terminal

        async def main():
            async with Flow(Each(use_the_terminal), mp_start_method=sys.argv[1]) as flow:
                job = await flow.process(Job(), 10)
                print("read", job.read)

        if __name__ == "__main__":
            asyncio.run(main())
    """
    script = write_script(tmp_path, source)
    for method in METHODS:
        shown = in_terminal([sys.executable, str(script), method])
        assert shown.split() == ["written", "read", "OSError"]


def in_terminal(command: list[str]) -> str:
    """Run a command as the foreground group of a terminal with ``stty tostop`` and return what it shows."""
    pid, terminal = pty.fork()
    if not pid:
        attributes = termios.tcgetattr(0)
        attributes[3] |= termios.TOSTOP
        termios.tcsetattr(0, termios.TCSANOW, attributes)
        os.execve(command[0], command, script_environment())
    shown = b""
    with contextlib.suppress(OSError):  # its end
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown.decode()
