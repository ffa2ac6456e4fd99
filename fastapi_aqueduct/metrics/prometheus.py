"""What flows say about themselves, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.statistics import FlowStatistics, WorkerState
from ..flow import Flow


class AqueductCollector(Collector):
    """Reads the statistics of flows whenever Prometheus asks.

    `fastapi_aqueduct.Aqueduct` registers one while the application runs. Elsewhere:
    ``REGISTRY.register(AqueductCollector([flow]))``.

    Args:
        flows: The flows. Those that share a name are numbered in the label ``flow``.
    """

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._flows = dict(zip(_labels(flows), flows, strict=True))

    def describe(self) -> list[Metric]:
        """Return nothing: registration must not collect, the flows may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all flows."""
        flows = {label: flow.statistics() for label, flow in self._flows.items()}
        yield from _step_metrics(flows)
        yield from _flow_metrics(flows)


def _step_metrics(flows: dict[str, FlowStatistics]) -> Iterator[Metric]:
    workers = GaugeMetricFamily("aqueduct_workers", "Worker processes", labels=["flow", "step", "state"])
    for label, flow in flows.items():
        for step in flow.steps:
            for state in WorkerState:
                count = sum(worker.state is state for worker in step.workers)
                workers.add_metric([label, step.name, state], count)
    yield workers
    for family, name, text, attribute in _OF_STEPS:
        metric = family(name, text, labels=["flow", "step"])
        for label, flow in flows.items():
            for step in flow.steps:
                metric.add_metric([label, step.name], getattr(step, attribute))
        yield metric


_OF_STEPS = (
    (GaugeMetricFamily, "aqueduct_queue_length", "Tasks that wait for a step", "queued"),
    (CounterMetricFamily, "aqueduct_worker_restarts", "Workers that died and were replaced", "restarts"),
    (CounterMetricFamily, "aqueduct_worker_recycles", "Workers that were worn and were replaced", "recycled"),
    (CounterMetricFamily, "aqueduct_failed_launches", "Launches of workers that failed", "failed_launches"),
    (CounterMetricFamily, "aqueduct_task_retries", "Tasks tried again after a worker had died", "retries"),
    (GaugeMetricFamily, "aqueduct_step_broken", "1 while workers of a step die too often", "is_broken"),
    (GaugeMetricFamily, "aqueduct_step_hanging_seconds", "Time since a call has returned", "hanging_for"),
    (GaugeMetricFamily, "aqueduct_step_given_up", "1 when no worker of a step is expected any more", "is_given_up"),
)


def _flow_metrics(flows: dict[str, FlowStatistics]) -> Iterator[Metric]:
    arena = GaugeMetricFamily("aqueduct_arena_bytes", "Shared memory", labels=["flow", "kind"])
    in_flight = GaugeMetricFamily("aqueduct_tasks_in_flight", "Tasks that are not finished", labels=["flow"])
    tasks = CounterMetricFamily("aqueduct_tasks", "Tasks that have ended", labels=["flow", "outcome"])
    for label, flow in flows.items():
        for kind in ("limit", "touched", "used", "free", "leased", "retained"):
            arena.add_metric([label, kind], getattr(flow.arena, kind))
        in_flight.add_metric([label], flow.in_flight)
        for outcome in ("completed", "failed", "timed_out", "cancelled"):
            tasks.add_metric([label, outcome], getattr(flow, outcome))
    yield from (arena, in_flight, tasks)


def _labels(flows: Sequence[Flow]) -> list[str]:
    names = [flow.name for flow in flows]
    return [
        name if names.count(name) == 1 else f"{name}{names[:index].count(name) + 1}" for index, name in enumerate(names)
    ]
