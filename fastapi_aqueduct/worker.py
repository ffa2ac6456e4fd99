"""What user code in a worker can know about it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from .exceptions import UsageError
from .replaced import explain_names

explain_names(__name__)


@dataclass(frozen=True)
class WorkerInfo:
    """The worker in which user code runs; `worker_info` returns it.

    Attributes:
        flow: Name of the flow.
        step: Name of the step.
        index: Counts the workers of a step from 0. A worker that replaces another one has its index.
        pid: Id of its process.
        threads: Its share of the cores, for libraries that do not read OMP_NUM_THREADS; where that is set, its value.
        version: Version of the handler, from 1.
        device: What a library must be told for its device: ``"cuda:0"``, ``"xpu:0"`` or ``"cpu"``, whichever device it
            is, since the worker sees no others; None without `WorkerOptions.devices`.
        device_id: Which device that is: its number or UUID on the machine; of several, with commas between them.
        node: The address of the machine of a `RayActor`; None in a process of the API process's machine.
    """

    flow: str
    step: str
    index: int
    pid: int
    threads: int
    version: int = 1
    device: str | None = None
    device_id: str | None = None
    node: str | None = None


class _Process:
    """What this process is."""

    worker: WorkerInfo | None = None


_process = _Process()
_thread: ContextVar[WorkerInfo | None] = ContextVar("fastapi_aqueduct.worker", default=None)


def worker_info() -> WorkerInfo:
    """Return what is known about the worker in which this is called: in ``load``, `on_start`, ``handle``, `on_stop`.

    ::

        def load():
            return Model.load("model.pt").to(worker_info().device)

    It works in each thread of a worker, and in processes that it forks. Within `fastapi_aqueduct.testing.inline` it
    returns what the first worker process would see, with the pid of the test, whose environment is not changed; other
    threads of a handler must run in a copy of its context, as with ``asyncio.to_thread``.

    Raises:
        UsageError: This is no worker.
    """
    info = find_worker_info()
    if info is None:
        raise UsageError(
            "worker_info() was called outside of a worker: call it in load= of a function, or in on_start, handle or "
            "on_stop of a handler; for tests without worker processes there is fastapi_aqueduct.testing.inline"
        )
    return info


def find_worker_info() -> WorkerInfo | None:
    """Return what is known about the worker in which this is called; None outside of workers."""
    return _thread.get() or _process.worker


def set_process_info(info: WorkerInfo) -> None:
    """Set what this process is."""
    _process.worker = info


def set_thread_info(info: WorkerInfo) -> None:
    """Set what this thread is, and what continues its context."""
    _thread.set(info)
