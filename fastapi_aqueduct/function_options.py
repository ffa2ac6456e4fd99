"""The keyword arguments of `FlowStep` and `Flow` that a function in workers has too, with their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TypedDict

from .autoscale import Autoscale
from .engine.recorder import TaskRecorder
from .engine.timing import Timing
from .exceptions import InvalidArgument
from .metrics.collect import Collector
from .metrics.export import Exporter
from .metrics.tracing import TracerProvider
from .worker_options import WorkerOptions


class StepOptions(TypedDict, total=False):
    """The options of the step; see `FlowStep`."""

    nprocs: int | Autoscale
    batch_timeout: float | Literal["auto"]
    max_retries: int
    handle_timeout: float | None
    max_tasks: int | None
    max_tasks_jitter: int
    max_age: float | None
    max_memory_growth: int | None
    busy_poll: float
    concurrency: int | None
    worker: WorkerOptions | None


class FlowOptions(TypedDict, total=False):
    """The options of the flow; see `Flow`."""

    queue_size: int | None
    queue_priorities: int
    mp_start_method: Literal["spawn", "forkserver", "fork"]
    memory_limit: int | None
    start_timeout: float
    stop_timeout: float
    context: Sequence[ContextVar[Any]]
    worker_init: Callable[[], object] | None
    template: Callable[[], object] | None
    forward_logs: bool
    tracing: bool | TracerProvider
    timing: Timing
    metrics_enabled: bool
    metrics_collector: Collector | None
    metrics_exporter: Exporter | None
    recorder: TaskRecorder | None


class FunctionOptions(StepOptions, FlowOptions, total=False):
    """The options of a function: those of its step and of its flow.

    Attributes:
        name: Name of the flow and of its step; default: that of the function.
    """

    name: str


def split_options(owner: str, options: FunctionOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the step and those of the flow.

    Args:
        owner: Name of the function that was given them, for the message.
        options: All of them; the name is left out.

    Raises:
        InvalidArgument: There is no such option.
    """
    given: dict[str, Any] = dict(options)
    given.pop("name", None)
    of_step = {key: given.pop(key) for key in StepOptions.__annotations__ if key in given}
    of_flow = {key: given.pop(key) for key in FlowOptions.__annotations__ if key in given}
    if given:
        raise InvalidArgument(f"{owner} has no option {' or '.join(given)}; it has those of FlowStep and Flow")
    return of_step, of_flow
