"""The pipeline process that the first API process of a server starts, and that belongs to none of them."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

from ...exceptions import AqueductError, ConfigurationError
from ..child.program import ProgramFile
from ..wire.failures import forward_errors
from ..workers.interpreter import interpreter_options
from ..workers.launch_errors import memory_error
from ..workers.process import interrupts_blocked
from .host_lock import HostLock
from .pipeline_loop import run_pipeline
from .plan import Plan
from .reception import listen
from .server import LINGER, PipelineServer

_SCRIPT = "import sys; sys.path.append(sys.argv[1]); from fastapi_aqueduct.engine.shared.process import main; main()"
"""No file: the forkserver would have each worker import it as the main module."""

_ROOT = Path(__file__).parents[3]

LOG_FORMAT = "%(levelname)s: pipeline process %(process)d: %(message)s"


def start_pipeline(plan: Plan, path: str, lock_fd: int, owner_fd: int | None = None) -> subprocess.Popen[bytes]:
    """Start the pipeline process, which soon listens at a path. Call this in a thread.

    It is in a session of its own, so neither Ctrl-C in a terminal nor its end reach it. Without an owner it ignores
    SIGTERM and SIGINT: it ends with the last API process.

    Args:
        plan: The plan of the flow.
        path: Where it listens, in a directory that only this user can enter.
        lock_fd: Descriptor of the lock of that path, which it keeps until it ends.
        owner_fd: A pidfd of the process that owns it, -1 where the system has none: it then serves until that ends or
            SIGTERM comes, also without an API process.

    Returns:
        The process, which the caller waits for so that nothing of it remains.

    Raises:
        ConfigurationError: The application is frozen into an executable.
        StartError: No descriptor, no memory or no process is left.
    """
    name = plan.options.name
    if getattr(sys, "frozen", False):
        raise ConfigurationError(
            f"flow {name} cannot have a pipeline process: this application is frozen into {sys.executable}, all of "
            'which would run in its place; leave out pipeline="host"'
        )
    try:
        file = ProgramFile(f"{name}:plan", plan.pack())
        try:
            with interrupts_blocked():
                return subprocess.Popen(
                    [sys.executable, "-P", *interpreter_options(), "-c", _SCRIPT]
                    + [str(_ROOT), str(file.fd), str(lock_fd), path, f"{name}:pipeline"]
                    + ([] if owner_fd is None else [str(owner_fd)]),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[fd for fd in (file.fd, lock_fd, owner_fd) if fd is not None and fd >= 0],
                    start_new_session=True,
                )
        finally:
            file.close()
    except OSError as exc:
        raise memory_error(name, exc) from exc


def main() -> None:
    """Run the pipeline process: the arguments are those that `start_pipeline` gives it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    plan_fd, lock_fd, path = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    owner_fd = int(sys.argv[6]) if len(sys.argv) > 6 else None
    for fd in (lock_fd, owner_fd):
        if fd is not None and fd >= 0:
            os.set_inheritable(fd, False)
    forward_errors()
    logging.basicConfig(format=LOG_FORMAT)
    try:
        if owner_fd is None:
            run_pipeline(_make_server(read_plan(plan_fd), path, LINGER).run())
        else:
            run_pipeline(_run_owned(_make_server(read_plan(plan_fd), path, None), owner_fd))
    except AqueductError:
        sys.exit(1)  # all API processes that wait for the start have got it
    finally:
        HostLock(Path(path)).remove()


def read_plan(fd: int) -> Plan:
    """Read a plan from a memory file, and close the descriptor.

    Args:
        fd: The descriptor.
    """
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory, memoryview(memory) as view:
            return Plan.unpack(view)
    finally:
        os.close(fd)


def adopt_surroundings(plan: Plan) -> None:
    """Give this process what the process that has made a plan has: environment variables, log levels, a main module.

    Workers inherit the variables, and log at the levels.

    Args:
        plan: The plan.
    """
    os.environ.clear()
    os.environ.update(plan.environment)
    plan.log_levels.apply()
    plan.main.adopt()


def _make_server(plan: Plan, path: str, linger: float | None) -> PipelineServer:
    # A function of its own: nothing refers to the programs in the plan when it has returned.
    adopt_surroundings(plan)
    return PipelineServer(plan, listen(path), linger)


async def _run_owned(server: PipelineServer, owner_fd: int) -> None:
    """Serve until the owner ends or SIGTERM comes; a second SIGTERM ends the wait for tasks."""
    loop = asyncio.get_running_loop()

    def on_owner_end() -> None:
        loop.remove_reader(owner_fd)
        server.stop()

    loop.add_signal_handler(signal.SIGTERM, server.stop)
    if owner_fd >= 0:
        loop.add_reader(owner_fd, on_owner_end)
    await server.run()
