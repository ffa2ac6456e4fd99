"""Metrics of flows for Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import count

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..engine.statistics import FlowStatistics, WorkerState
from ..flow import Flow


class AqueductCollector(Collector):
    """Collects the statistics of flows at each scrape.

    While applications run, their `fastapi_aqueduct.Aqueduct` objects share one collector in the default registry.
    Without an application: ``REGISTRY.register(AqueductCollector([flow]))``.

    Args:
        flows: The flows. Flows that share a name are numbered in the label ``flow``.
    """

    def __init__(self, flows: Sequence[Flow] = ()) -> None:
        self._labels: dict[Flow, str] = {}
        self.add(flows)

    def add(self, flows: Sequence[Flow]) -> None:
        """Add flows. The labels of the others stay: a time series must not continue as that of another flow.

        Args:
            flows: The flows.
        """
        labels = dict(self._labels)
        new = [flow for flow in dict.fromkeys(flows) if flow not in labels]
        names = Counter(flow.name for flow in new)
        # Unique names first: a numbered name must not take the label of one of these.
        for flow in sorted(new, key=lambda flow: names[flow.name] > 1):
            labels[flow] = _label(flow.name, names[flow.name] > 1, set(labels.values()))
        self._labels = {flow: labels[flow] for flow in [*self._labels, *new]}

    def remove(self, flows: Sequence[Flow]) -> None:
        """Remove flows.

        Args:
            flows: The flows.
        """
        self._labels = {flow: label for flow, label in self._labels.items() if flow not in flows}

    def describe(self) -> list[Metric]:
        """Return nothing: a registration must not collect, since the flows may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all flows."""
        flows = {label: flow.statistics() for flow, label in self._labels.items()}
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
    (GaugeMetricFamily, "aqueduct_queue_length", "Tasks in the queue of a step", "queued"),
    (CounterMetricFamily, "aqueduct_worker_restarts", "Workers replaced after their death", "restarts"),
    (CounterMetricFamily, "aqueduct_worker_recycles", "Workers replaced by recycling", "recycled"),
    (CounterMetricFamily, "aqueduct_failed_launches", "Launches of workers that failed", "failed_launches"),
    (CounterMetricFamily, "aqueduct_task_retries", "Tasks tried again after the death of a worker", "retries"),
    (GaugeMetricFamily, "aqueduct_step_broken", "1 while workers of a step die too often", "is_broken"),
    (GaugeMetricFamily, "aqueduct_step_hanging_seconds", "Time for which a step hangs, else 0", "hanging_for"),
    (GaugeMetricFamily, "aqueduct_step_given_up", "1 when the step is not expected to recover", "is_given_up"),
)


def _flow_metrics(flows: dict[str, FlowStatistics]) -> Iterator[Metric]:
    arena = GaugeMetricFamily("aqueduct_arena_bytes", "Shared memory", labels=["flow", "kind"])
    in_flight = GaugeMetricFamily("aqueduct_tasks_in_flight", "Tasks that are not settled", labels=["flow"])
    tasks = CounterMetricFamily("aqueduct_tasks", "Settled tasks", labels=["flow", "outcome"])
    for label, flow in flows.items():
        for kind in ("limit", "touched", "used", "free", "leased", "retained"):
            arena.add_metric([label, kind], getattr(flow.arena, kind))
        in_flight.add_metric([label], flow.in_flight)
        for outcome in ("completed", "failed", "timed_out", "cancelled"):
            tasks.add_metric([label, outcome], getattr(flow, outcome))
    yield from (arena, in_flight, tasks)


def _label(name: str, is_shared: bool, taken: Container[str]) -> str:
    if not is_shared and name not in taken:
        return name
    return next(label for number in count(1 if is_shared else 2) if (label := f"{name}{number}") not in taken)


class Publication:
    """Publishes the flows of several applications in one registry, each flow once.

    Two collectors would each declare every metric, and Prometheus refuses a page that declares a metric twice.

    Args:
        registry: Registry that has the collector while there are flows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._collector = AqueductCollector()
        self._uses: Counter[Flow] = Counter()
        # Applications may run in the event loops of several threads.
        self._lock = threading.Lock()

    def add(self, flows: Sequence[Flow]) -> Callable[[], None]:
        """Publish flows until the returned function is called.

        Args:
            flows: The flows.

        Returns:
            A function that removes the flows.
        """
        with self._lock:
            if not self._uses:
                self._registry.register(self._collector)
            self._uses.update(flows)
            self._collector.add(flows)
        return lambda: self._remove(flows)

    def _remove(self, flows: Sequence[Flow]) -> None:
        with self._lock:
            self._uses.subtract(flows)
            self._uses = +self._uses
            self._collector.remove([flow for flow in flows if flow not in self._uses])
            if not self._uses:
                self._registry.unregister(self._collector)


publication = Publication(REGISTRY)
"""The flows of all applications of this process, in the default registry of ``prometheus_client``."""
