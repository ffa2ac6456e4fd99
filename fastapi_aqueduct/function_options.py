"""The keyword arguments of `FlowStep` and `Flow` that a function in workers has too, with their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TypedDict

from .autoscale import Autoscale
from .engine.timing import Timing
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


class FunctionOptions(StepOptions, FlowOptions, total=False):
    """The options of a function: those of its step and of its flow.

    Attributes:
        name: Name of the flow and of its step; default: that of the function.
    """

    name: str
