"""A step as the status page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ...flow import StepStatistics, TrialReport, TrialSide, WorkerStatistics
from ...steps import Step
from ..probes import GRAVITY, symptoms_of_step
from .distribution import describe, describe_part, since
from .history import rate

_LEAVING = ("retiring", "stopping", "dead")


class Declared(NamedTuple):
    """What does not change while a flow runs.

    Attributes:
        step: The step.
        numbers: Its numbers by option, and those of the flow.
        replacements: The names of the handlers that may replace the present one.
    """

    step: Step
    numbers: Mapping[str, Any]
    replacements: Sequence[str]


def describe_step(
    now: StepStatistics, before: StepStatistics | None, seconds: float, declared: Declared
) -> dict[str, Any]:
    """Return a step for JSON.

    Args:
        now: Its statistics.
        before: Those at the beginning of the window; None: there is none.
        seconds: The length of the window.
        declared: What its flow declares.
    """
    histograms, old = now.histograms, before.histograms if before is not None else None
    wait, old_wait = (histograms.queue_wait, old.queue_wait) if histograms and old else (None, None)
    return {
        "name": now.name,
        "handler": declared.step.handler_class.__name__,
        "version": now.version,
        "state": state_of(now),
        "change": now.change,
        "workers": [describe_worker(worker) for worker in now.workers],
        "nprocs": now.nprocs,
        "queued": now.queued,
        "queued_by_priority": list(now.queued_by_priority),
        "queue_size": declared.numbers.get("queue_size"),
        "expected_wait": now.expected_wait,
        "throughput": rate(wait.count, old_wait.count, seconds) if wait and old_wait else None,
        "busy_share": now.load.busy_share if now.load is not None else None,
        "batch": _batch(now, before, declared),
        "queue_wait": describe_part(histograms, old, "queue_wait"),
        "handle_time": describe_part(histograms, old, "handle_time"),
        "transfer_time": describe_part(histograms, old, "transfer_time"),
        "restarts": now.restarts,
        "restarts_by_cause": {cause.value: count for cause, count in now.restarts_by_cause.items() if count},
        "recycled": now.recycled,
        "retries": now.retries,
        "coalesced": now.coalesced,
        "failed_launches": now.failed_launches,
        "log_records_dropped": now.log_records_dropped,
        "trial": describe_trial(now.trial) if now.trial is not None else None,
        "incidents": [asdict(incident) for incident in now.incidents],
        "replacements": list(declared.replacements),
    }


def state_of(step: StepStatistics) -> str:
    """Return the state of a step of a running flow in one word, as the probes judge it."""
    words = [word for word, _ in symptoms_of_step(step.name, step)]
    if words:
        return min(words, key=GRAVITY.index)
    return "asleep" if step.is_asleep else "waking" if step.is_waking else "ready"


def describe_worker(worker: WorkerStatistics) -> dict[str, Any]:
    """Return a worker for JSON."""
    return {
        "pid": worker.pid,
        "index": worker.index,
        "state": _worker_state(worker),
        "tasks": worker.in_flight,
        "version": worker.version,
        "role": worker.role.value,
        "device": worker.device_id,
        "problem": worker.problem,
        "hanging_for": worker.hanging_for,
        "batch_ceiling": worker.batch_ceiling,
    }


def describe_trial(report: TrialReport) -> dict[str, Any]:
    """Return the comparison of two handlers for JSON."""
    return {
        "role": report.role.value,
        "share": report.share,
        "skipped": report.skipped + report.skipped_writable,
        "baseline": _side(report.baseline),
        "candidate": _side(report.candidate),
    }


def _worker_state(worker: WorkerStatistics) -> str:
    if worker.state.value in _LEAVING:
        return "leaving"
    if worker.hanging_for:
        return "hanging"
    if worker.problem:
        return "unhealthy"
    return "busy" if worker.state.value == "ready" and worker.in_flight else worker.state.value


def _batch(now: StepStatistics, before: StepStatistics | None, declared: Declared) -> dict[str, Any] | None:
    sizes = now.histograms.batch_size if now.histograms else None
    if sizes is None:
        return None
    old = before.histograms.batch_size if before is not None and before.histograms else None
    recent = since(sizes, old)
    shown = recent if recent.count else sizes
    mean = shown.sum / shown.count if shown.count else None
    return {"size": mean, "limit": declared.numbers.get("batch_size")}


def _side(side: TrialSide) -> dict[str, Any]:
    return {
        "version": side.version,
        "tasks": side.tasks,
        "failed": side.failed,
        "errors": dict(side.errors),
        "deaths": side.deaths,
        "handle_time": describe(side.handle_time, None),
    }
