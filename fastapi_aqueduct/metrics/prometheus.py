"""Metrics of flows for Prometheus."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import count
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

from ..engine.statistics import FlowStatistics
from ..logger import log
from .families import families, job_families


class Measured(Protocol):
    """What metrics are read from: a `fastapi_aqueduct.Flow`.

    Attributes:
        name: Its name.
    """

    name: str

    def statistics(self) -> FlowStatistics:
        """Return a snapshot."""


class MeasuredJobs(Protocol):
    """What metrics of jobs are read from: a `fastapi_aqueduct.Jobs`."""

    def statistics(self) -> Mapping[str, object]:
        """Count the jobs, by flow."""


class AqueductCollector(Collector):
    """Collects the statistics of flows at each scrape.

    While applications run, their `fastapi_aqueduct.Aqueduct` objects share one collector in the default registry.
    Without an application: ``REGISTRY.register(AqueductCollector([flow]))``.

    Args:
        flows: The flows. Flows that share a name are numbered in the label ``flow``.

    Attributes:
        jobs: The jobs, which may be appended and removed.
    """

    def __init__(self, flows: Sequence[Measured] = ()) -> None:
        self.jobs: list[MeasuredJobs] = []
        self._labels: dict[Measured, str] = {}
        self.add(flows)

    def add(self, flows: Sequence[Measured]) -> None:
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

    def remove(self, flows: Sequence[Measured]) -> None:
        """Remove flows.

        Args:
            flows: The flows.
        """
        self._labels = {flow: label for flow, label in self._labels.items() if flow not in flows}

    def describe(self) -> list[Metric]:
        """Return nothing: a registration must not collect, since the flows may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all flows and jobs."""
        flows = {label: flow.statistics() for flow, label in self._labels.items()}
        yield from families(flows)
        yield from job_families({flow: found for jobs in self.jobs for flow, found in jobs.statistics().items()})


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
        self._uses: Counter[Measured] = Counter()
        # Applications may run in the event loops of several threads.
        self._lock = threading.Lock()
        self._has_warned = False

    def add(self, flows: Sequence[Measured], jobs: MeasuredJobs | None = None) -> Callable[[], None]:
        """Publish flows until the returned function is called.

        Args:
            flows: The flows.
            jobs: Their jobs.

        Returns:
            A function that removes both.
        """
        found = [] if jobs is None else [jobs]
        self._check_mode()
        with self._lock:
            if not self._uses:
                self._registry.register(self._collector)
            self._uses.update(flows)
            self._collector.add(flows)
            self._collector.jobs += found
        return lambda: self._remove(flows, found)

    def _check_mode(self) -> None:
        """Warn once if the pages of this process are made from files, and not from collectors."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ and not self._has_warned:
            self._has_warned = True
            log.warning(
                "PROMETHEUS_MULTIPROC_DIR is set, so a page for Prometheus that is made in the multiprocess mode of "
                "prometheus_client shows no metrics of flows, unless an AqueductCollector is registered in its registry"
            )

    def _remove(self, flows: Sequence[Measured], jobs: Sequence[MeasuredJobs]) -> None:
        with self._lock:
            self._collector.jobs = [found for found in self._collector.jobs if found not in jobs]
            self._uses.subtract(flows)
            self._uses = +self._uses
            self._collector.remove([flow for flow in flows if flow not in self._uses])
            if not self._uses:
                self._registry.unregister(self._collector)


publication = Publication(REGISTRY)
"""The flows of all applications of this process, in the default registry of ``prometheus_client``."""
