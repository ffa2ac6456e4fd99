"""EngineOptions: what a flow declares for its engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from ..fair_share import FairShare
from ..reports import Subscriber
from ..step import FlowStep
from .recorder import Recording
from .refusals import Refusals
from .reporter import Reporter
from .shape import Shape
from .timing import DEFAULT_TIMING, Timing
from .tracer import BeginSpans

StartMethod = Literal["spawn", "forkserver"]

DEFAULT_QUEUE_SIZE = 1024
"""Tasks that may wait for a step by default."""

DEFAULT_START_TIMEOUT = 300.0
"""Seconds in which all workers must be ready by default."""

DEFAULT_STOP_TIMEOUT = 25.0
"""Seconds that a graceful stop waits for tasks in flight by default; Kubernetes kills a process after 30."""

DEFAULT_CALL_TIMEOUT = 5.0
"""Seconds in which the call of a function in workers must be answered by default."""


@dataclass(frozen=True, eq=False)
class EngineOptions:
    """What a flow declares for its engine; see `fastapi_aqueduct.Flow`.

    Attributes:
        name: Name of the flow.
        steps: Its steps, each with its name.
        start_method: How processes are started.
        queue_size: Tasks that may wait for a step, in each level.
        priorities: Number of priority levels.
        memory_limit: Bytes of shared memory that all processes may use; None: half of the memory.
        start_timeout: Seconds in which a worker must be ready.
        timing: The times of the engine.
        subscribers: Get the record of each task that ends; they come and go at any time.
        metrics_enabled: Whether the flow is measured.
        context: The context variables that travel with tasks.
        worker_init: Called in each worker before `on_start`.
        reporters: Report on the engine in its event loop.
        forward_logs: Whether what user code in workers logs is handled in this process.
        refusals: Counts what the flow refuses.
        begin_spans: Returns the spans of a task; None if no task is traced.
        template: Loads once what workers share; None if each loads all it needs.
        stop_timeout: Seconds that a graceful stop waits for tasks in flight.
        timeout_sec: Seconds in which the call of the function behind the flow must be answered; None: it has none.
        shape: Which steps run one after the other, and which side by side; empty: all one after the other.
        recording: Has the recorder of tasks that fail, if there is one.
        fair: How tenants share it; None: they do not.
    """

    name: str
    steps: Sequence[tuple[str, FlowStep]]
    start_method: StartMethod
    queue_size: int = DEFAULT_QUEUE_SIZE
    priorities: int = 1
    memory_limit: int | None = None
    start_timeout: float = DEFAULT_START_TIMEOUT
    timing: Timing = DEFAULT_TIMING
    subscribers: Collection[Subscriber] = ()
    metrics_enabled: bool = True
    context: Sequence[ContextVar[Any]] = ()
    worker_init: Callable[[], object] | None = None
    reporters: Sequence[Reporter] = ()
    forward_logs: bool = True
    refusals: Refusals = field(default_factory=Refusals)
    begin_spans: BeginSpans | None = None
    template: Callable[[], object] | None = None
    stop_timeout: float = DEFAULT_STOP_TIMEOUT
    timeout_sec: float | None = None
    shape: Shape = ()
    recording: Recording = field(default_factory=Recording)
    fair: FairShare | None = None
