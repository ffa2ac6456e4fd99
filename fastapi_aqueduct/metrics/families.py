"""The metric families of flows, as Prometheus has them: names, help texts and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from ..engine.statistics import FlowStatistics, Histogram, StepStatistics, WorkerRole, WorkerState
from ..engine.system.process_usage import process_usage

REASONS = (
    *("arena_full", "deadline_unreachable", "forked", "not_running", "overloaded", "queue_full", "step_unavailable"),
    *("body_length_mismatch", "body_too_large", "body_too_slow", "malformed_body", "unsupported_body"),
    *("task_too_large", "tenant_over_share"),
)
"""Reasons of refusals. They are shown from the start, with 0: a rate needs the value before the first refusal."""

DROPPED = ("backlog", "redact", "too_large", "too_many", "unwritable")
"""Reasons for which tasks that failed are not recorded. They are shown from the start, as those of refusals are."""


class Family(NamedTuple):
    """One metric.

    Attributes:
        type: Its class in ``prometheus_client``.
        name: Its name, without the ending of counters.
        text: Its help text.
        source: Where its value is in the statistics of a flow or a step: the path of an attribute, or a function. With
            a further label, a mapping from the label's values to those of the metric.
        label: The name of the further label.
    """

    type: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    name: str
    text: str
    source: str | Callable[[Any], Any]
    label: str = ""

    def metric(self, owners: Iterable[tuple[Sequence[str], object]], labels: Sequence[str]) -> Metric:
        """Make the metric.

        Args:
            owners: The statistics that it is read from, with the values of their labels.
            labels: The names of these labels.
        """
        metric = self.type(self.name, self.text, labels=[*labels, self.label] if self.label else labels)
        add: Callable[..., None] = metric.add_metric
        for values, owner in owners:
            value = self._read(owner)
            for more, single in value.items() if self.label else [(None, value)]:
                names = [*values, more] if self.label else values
                if isinstance(single, Histogram):
                    add(names, _buckets(single), single.sum)
                elif single is not None:
                    add(names, single)
        return metric

    def _read(self, owner: object) -> Any:
        if callable(self.source):
            return self.source(owner)
        for name in self.source.split("."):
            owner = getattr(owner, name, None)
        return owner


def families(flows: Mapping[str, FlowStatistics]) -> Iterator[Metric]:
    """Make the metrics of flows; those without a value are left out.

    Args:
        flows: The statistics of the flows, by the value of the label ``flow``.
    """
    steps = [([label, step.name], step) for label, flow in flows.items() for step in flow.steps]
    # A worker and its replacement have the same number: of the two the later one counts.
    pids = {
        (*labels, str(worker.index), str(worker.version)): worker.pid
        for labels, step in steps
        for worker in step.workers
        if worker.pid is not None
    }
    workers = [(labels, process_usage(pid)) for labels, pid in pids.items()]
    metrics = [family.metric(steps, ["flow", "step"]) for family in _OF_STEPS]
    metrics += [family.metric(workers, ["flow", "step", "worker", "version"]) for family in _OF_WORKERS]
    metrics += [family.metric([([label], flow) for label, flow in flows.items()], ["flow"]) for family in _OF_FLOWS]
    yield from (metric for metric in metrics if metric.samples)


def job_families(jobs: Mapping[str, object]) -> Iterator[Metric]:
    """Make the metrics of jobs; those without a value are left out.

    Args:
        jobs: The statistics of the jobs, by flow.
    """
    metrics = [family.metric([([flow], found) for flow, found in jobs.items()], ["flow"]) for family in _OF_JOBS]
    yield from (metric for metric in metrics if metric.samples)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


def _workers(step: StepStatistics) -> dict[str, int]:
    serving = [worker for worker in step.workers if worker.role is WorkerRole.SERVING]
    return {state: sum(worker.state is state for worker in serving) for state in WorkerState}


def _unhealthy(step: StepStatistics) -> int:
    return len(step.problems)


def _expected_wait(step: StepStatistics) -> float:
    # Asleep is no reason to add replicas, which are what this is read for.
    return step.expected_time if step.is_asleep else step.expected_wait + step.expected_time


def _arena(flow: FlowStatistics) -> dict[str, int]:
    kinds = ("limit", "touched", "used", "free", "leased", "retained", "receiving")
    return {kind: getattr(flow.arena, kind) for kind in kinds}


def _outcomes(flow: FlowStatistics) -> dict[str, int]:
    return {outcome: getattr(flow, outcome) for outcome in ("completed", "failed", "timed_out", "cancelled")}


def _refusals(flow: FlowStatistics) -> dict[str, int]:
    return {**dict.fromkeys(REASONS, 0), **flow.refusals}


def _recorded(flow: FlowStatistics) -> int | None:
    return None if flow.recordings is None else flow.recordings.recorded


def _dropped(flow: FlowStatistics) -> Mapping[str, int]:
    return {} if flow.recordings is None else {**dict.fromkeys(DROPPED, 0), **flow.recordings.dropped}


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

_OF_STEPS = (
    Family(_GAUGE, "aqueduct_workers", "Worker processes by state", _workers, "state"),
    Family(_GAUGE, "aqueduct_workers_unhealthy", "Ready workers whose model is unhealthy, as `check` says", _unhealthy),
    Family(_GAUGE, "aqueduct_workers_wanted", "Workers that a step should have now", "nprocs"),
    Family(_GAUGE, "aqueduct_step_asleep", "1 while a step has no workers because it has no tasks", "is_asleep"),
    Family(_GAUGE, "aqueduct_busy_share", "Share of the time of ready workers that is busy", "load.busy_share"),
    Family(_COUNTER, "aqueduct_busy_seconds", "Total time for which workers were busy", "load.busy_time"),
    Family(_COUNTER, "aqueduct_ready_seconds", "Total time for which workers were ready", "load.ready_time"),
    Family(_GAUGE, "aqueduct_expected_wait_seconds", "Time until a new task should leave the step", _expected_wait),
    Family(_GAUGE, "aqueduct_queue_length", "Tasks in the queue of a step", "queued"),
    Family(_HISTOGRAM, "aqueduct_queue_wait_seconds", "Time of a task in the queue", "histograms.queue_wait"),
    Family(_HISTOGRAM, "aqueduct_handle_time_seconds", "Time of a call of the handler", "histograms.handle_time"),
    Family(_HISTOGRAM, "aqueduct_transfer_time_seconds", "Time to a worker and back", "histograms.transfer_time"),
    Family(_HISTOGRAM, "aqueduct_batch_size", "Tasks in a call of the handler", "histograms.batch_size"),
    Family(
        _HISTOGRAM,
        "aqueduct_batch_delay_seconds",
        "Time for which a batch waited for more tasks while a worker was idle",
        "histograms.batch_delay",
    ),
    Family(
        _GAUGE,
        "aqueduct_batch_ceiling",
        "Tasks that calls get at most because larger batches have run out of memory, else 0",
        "batch_ceiling",
    ),
    Family(_COUNTER, "aqueduct_task_retries", "Tasks tried again after the death of a worker", "retries"),
    Family(_COUNTER, "aqueduct_tasks_coalesced", "Tasks that shared the run of another one", "coalesced"),
    Family(_COUNTER, "aqueduct_worker_restarts", "Workers replaced after their death", "restarts_by_cause", "cause"),
    Family(_COUNTER, "aqueduct_worker_recycles", "Workers replaced by recycling", "recycled_by_kind", "kind"),
    Family(_COUNTER, "aqueduct_failed_launches", "Launches of workers that failed", "failed_launches"),
    Family(_COUNTER, "aqueduct_log_records_dropped", "Log records of workers that were dropped", "log_records_dropped"),
    Family(_GAUGE, "aqueduct_step_version", "Version of the handler that new workers run", "version"),
    Family(_GAUGE, "aqueduct_step_broken", "1 while workers of a step die too often", "is_broken"),
    Family(_GAUGE, "aqueduct_step_hanging_seconds", "Time for which a step hangs, else 0", "hanging_for"),
    Family(_GAUGE, "aqueduct_step_given_up", "1 when the step is not expected to recover", "is_given_up"),
)

_OF_WORKERS = (
    Family(
        _GAUGE,
        "aqueduct_worker_resident_memory_bytes",
        "Resident memory of a worker, including touched pages of shared memory",
        "resident",
    ),
    Family(_GAUGE, "aqueduct_worker_private_memory_bytes", "Memory of a worker that it shares with none", "private"),
    Family(_COUNTER, "aqueduct_worker_cpu_seconds", "Processor time of a worker", "cpu_time"),
)

_OF_FLOWS = (
    Family(_GAUGE, "aqueduct_tasks_in_flight", "Tasks that are not settled", "in_flight"),
    Family(_COUNTER, "aqueduct_tasks", "Settled tasks", _outcomes, "outcome"),
    Family(_HISTOGRAM, "aqueduct_total_time_seconds", "Time of a completed task", "histograms.total_time"),
    Family(_HISTOGRAM, "aqueduct_first_item_seconds", "Time to the first item of a stream", "histograms.first_item"),
    Family(
        _HISTOGRAM, "aqueduct_item_interval_seconds", "Time between two items of a stream", "histograms.item_interval"
    ),
    Family(_COUNTER, "aqueduct_refusals", "Calls and uploads that were refused", _refusals, "reason"),
    Family(_COUNTER, "aqueduct_failures_recorded", "Failed tasks that were recorded", _recorded),
    Family(_COUNTER, "aqueduct_failures_dropped", "Failed tasks that were not recorded", _dropped, "reason"),
    Family(_GAUGE, "aqueduct_uploads_arriving", "Bodies of requests that are arriving", "uploads"),
    Family(_GAUGE, "aqueduct_arena_bytes", "Shared memory", _arena, "kind"),
)

_OF_JOBS = (
    Family(_GAUGE, "aqueduct_jobs", "Jobs that have not ended", "pending", "state"),
    Family(_GAUGE, "aqueduct_oldest_job_seconds", "Age of the oldest job that has not ended", "oldest_age"),
    Family(_COUNTER, "aqueduct_jobs_ended", "Jobs that have ended", "ended", "outcome"),
)
