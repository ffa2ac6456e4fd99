"""MetricsManager: fills the collector of a running flow and calls its exporter in periods."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context

from ..engine.reporter import Measured
from ..engine.state import FlowState
from ..engine.statistics import FlowStatistics
from ..exceptions import ConfigurationError, got
from ..logger import log
from ..replaced import explain_members, explain_names
from ..reports import Subscriber, TaskRecord
from ..step import FlowStep
from .base import MetricsTypes
from .collect import Collector
from .export import DiscardingExporter, Exporter
from .measure import Measure

explain_names(__name__)

PROCESS_PERIOD = 1.0
"""Seconds between two readings of the worker processes."""

PART = 100
"""Tasks in one call of the exporter. A client of StatsD takes about 5 us for a value, and a task has about ten."""

MOST_PENDING = 50_000
"""Tasks that may wait for an exporter that is slower than the flow. The times of further tasks are dropped."""


@explain_members("metrics.manager.MetricsManager")
class MetricsManager:
    """Fills a collector with what is measured of a flow, and passes that to an exporter in periods.

    All of it runs in the event loop that drives the flow. After a busy period the exporter is called for one part after
    the other, and the loop does other work in between.

    Args:
        name: Name of the flow.
        measure: Turns records and statistics of the flow into metrics.
        collector: The collector.
        exporter: The exporter.
    """

    def __init__(self, name: str, measure: Measure, collector: Collector, exporter: Exporter) -> None:
        self._name = name
        self._measure = measure
        self._collector = collector
        self._exporter = exporter
        self._pending: deque[TaskRecord] = deque()
        self._dropped = 0
        self._is_failing = False
        self._engine: Measured | None = None
        self._timers: dict[Callable[[], None], asyncio.Handle] = {}
        self._rest: asyncio.Handle | None = None
        # Not the context of a request, in which the flow may change to another event loop.
        self._context = Context()

    @property
    def collects_tasks(self) -> bool:
        """Whether `note` is to be called."""
        return self._collector.is_collectible(MetricsTypes.TASK_TIMERS)

    def note(self, record: TaskRecord) -> None:
        """Note a task that has ended.

        Args:
            record: What was recorded of it.
        """
        if len(self._pending) < MOST_PENDING:
            self._pending.append(record._replace(task=None))
            return
        if not self._dropped:
            log.warning(
                "the metrics exporter of flow %s is slower than the flow: %d tasks wait for it, and the times of "
                "further tasks are dropped until it has exported these",
                self._name,
                MOST_PENDING,
            )
        self._dropped += 1

    def attach(self, engine: Measured, loop: asyncio.AbstractEventLoop) -> None:
        """Report on an engine, in an event loop and in no other any more; see `Reporter.attach`.

        Args:
            engine: The engine.
            loop: The event loop that drives it.
        """
        self.detach()
        if engine is not self._engine:
            self._engine = engine
            self._measure.begin()
        if self._collector.is_collectible(MetricsTypes.QUEUE_SIZE):
            self._start(loop, self._collect_queue_sizes, self._collector.qsize_collect_period)
        self._start(loop, self._collect_processes, PROCESS_PERIOD)
        self._start(loop, self._export, self._exporter.export_period)

    def detach(self) -> None:
        """Stop working in an event loop."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    async def finish(self) -> None:
        """Export all that is left."""
        self.detach()
        if self._engine is None:
            return
        self._export_part()
        while self._pending:
            await asyncio.sleep(0)
            self._export_part()
        self._engine = None

    def _start(self, loop: asyncio.AbstractEventLoop, function: Callable[[], None], period: float) -> None:
        self._timers[function] = loop.call_soon(self._repeat, loop, function, period, context=self._context)

    def _repeat(self, loop: asyncio.AbstractEventLoop, function: Callable[[], None], period: float) -> None:
        self._timers[function] = loop.call_later(period, self._repeat, loop, function, period, context=self._context)
        function()

    def _statistics(self) -> FlowStatistics:
        assert self._engine is not None
        return self._engine.statistics(FlowState.RUNNING)

    def _collect_queue_sizes(self) -> None:
        self._collector.add_queue_sizes(self._measure.queue_sizes(self._statistics()))

    def _collect_processes(self) -> None:
        statistics = self._statistics()
        self._collector.add_memory_usage(self._measure.memory_usage(statistics))
        self._collector.add_processes_stats(self._measure.processes(statistics))

    def _export(self) -> None:
        if self._rest is None:  # else parts of the previous period are still to be exported
            self._export_parts(asyncio.get_running_loop())

    def _export_parts(self, loop: asyncio.AbstractEventLoop) -> None:
        self._export_part()
        self._rest = loop.call_soon(self._export_parts, loop, context=self._context) if self._pending else None

    def _export_part(self) -> None:
        # Removed first: a part that cannot be exported is lost, else a collector that fails would get it for ever.
        part = [self._pending.popleft() for _ in range(min(PART, len(self._pending)))]
        try:
            self._collector.add_tasks_stats(self._measure.outcomes(self._statistics()))
            for record in part:
                self._collector.add_task_metrics(self._measure.tasks(record))
            self._exporter.export(self._collector.extract_metrics())
            self._is_failing = False
        except Exception:
            if not self._is_failing:
                log.exception("the metrics exporter of flow %s has failed; it is called again", self._name)
            self._is_failing = True
        if self._dropped and not self._pending:
            log.warning("the times of %d tasks of flow %s were not exported", self._dropped, self._name)
            self._dropped = 0


def make_reporters(
    name: str,
    steps: Sequence[tuple[str, FlowStep]],
    is_enabled: bool,
    collector: Collector | None,
    exporter: Exporter | None,
    subscribers: list[Subscriber],
) -> list[MetricsManager]:
    """Return what reports on a flow: nothing if it has neither a collector nor an exporter.

    Args:
        name: Name of the flow.
        steps: Its steps, each with its name.
        is_enabled: Whether times of tasks and lengths of queues are collected.
        collector: Its collector; default: a new one.
        exporter: Its exporter; default: none, for a collector that passes on itself what it gets.
        subscribers: What gets the records of its tasks is added here.

    Raises:
        ConfigurationError: Collector or exporter is of another type.
    """
    for argument, value, kind in (("collector", collector, Collector), ("exporter", exporter, Exporter)):
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(
                f"metrics_{argument} of flow {name} must be a fastapi_aqueduct.metrics.{kind.__name__}, {got(value)}"
            )
    if collector is None and exporter is None:
        return []
    if not is_enabled:
        collector = Collector(collectible_metrics=[])
    manager = MetricsManager(name, Measure(steps), collector or Collector(), exporter or DiscardingExporter())
    if manager.collects_tasks:
        subscribers.append(manager.note)
    return [manager]
