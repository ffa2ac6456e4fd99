"""The errors for a start that has failed."""

from __future__ import annotations

from ...exceptions import StartError, StartTimeout, describe_exit
from ..child.importing import NotImportable, explain
from ..statistics import WorkerState
from ..wire.exception_pickle import describe
from .handle import WorkerHandle


def start_error(flow: str, worker: WorkerHandle, exit_code: int | None, hint: str) -> StartError:
    """Return the error for a worker that died before it was ready.

    Args:
        flow: Name of the flow.
        worker: The worker.
        exit_code: The exit status of its process.
        hint: What may be the reason, if the worker has sent no exception.
    """
    where = f"a worker of {worker.name} in flow {flow} (pid {worker.pid})"
    failure = worker.failure
    if failure is None:
        reason = f" ({worker.reason})" if worker.reason else ""
        message = f"{where} {describe_exit(exit_code)} before it was ready{reason}{hint}"
    elif isinstance(failure, NotImportable):
        message = f"{where} cannot work: {explain(failure)}"
    else:
        message = f"{where} failed in {worker.failed_in}: {describe(failure)}"
    error = StartError(message, step=worker.name, pid=worker.pid, exit_code=exit_code)
    error.__cause__ = failure
    return error


def start_timeout_error(flow: str, workers: list[WorkerHandle], timeout: float) -> StartTimeout:
    """Return the error for workers that were not ready in time.

    Args:
        flow: Name of the flow.
        workers: All workers; none while the template loads.
        timeout: The time limit in seconds.
    """
    if not workers:
        return StartTimeout(
            f"flow {flow} was not ready in {timeout:g} s: its template is still loading; a model that loads longer "
            "needs a larger start_timeout"
        )
    slow = [worker for worker in workers if worker.state is not WorkerState.READY]
    names = ", ".join(f"{worker.name} (pid {worker.pid})" for worker in slow)
    return StartTimeout(
        f"flow {flow} was not ready in {timeout:g} s; still in on_start: {names}; "
        "a model that loads longer needs a larger start_timeout",
        step=slow[0].name if slow else "",
        pid=slow[0].pid if slow else None,
    )
