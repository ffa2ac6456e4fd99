"""What programs read: the variables of the environment, and the findings as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import Settings
from .result import Findings, Run, StepFindings
from .wording import verdict

SCHEMA = 1
"""Version of the JSON. Fields may be added to it; a change of one is another version."""


def env_text(findings: Findings) -> str:
    """Return the recommended settings as a file of variables, for the shell and for ``docker run --env-file``."""
    lines = [f"# Settings of the flow {findings.flow}, as `fastapi-aqueduct tune` recommends them."]
    lines += [f"# {sentence}" for sentence in verdict(findings)]
    lines += [f"{name}={value}" for name, value in findings.variables.items()]
    return "\n".join(lines) + "\n"


def as_json(findings: Findings) -> dict[str, Any]:
    """Return the findings as what JSON can represent. Times are seconds, memory bytes, rates tasks per second."""
    found = findings.recommendation
    return {
        "schema": SCHEMA,
        "flow": findings.flow,
        "goal": {
            "rate": findings.goal.rate,
            "slo": findings.goal.objective
            and {"percent": findings.goal.objective.percent, "seconds": findings.goal.objective.seconds},
        },
        "cores": findings.cores,
        "memory": findings.memory,
        "is_interrupted": findings.is_interrupted,
        "seconds": findings.seconds,
        "verdict": list(verdict(findings)),
        "notes": list(findings.notes),
        "variables": dict(findings.variables),
        "keeps_own_settings": findings.keeps_own,
        "recommendation": found
        and {
            "is_met": found.is_met,
            "settings": _settings(found.settings),
            "bottleneck": found.capacity.bottleneck,
            "limits": dict(found.capacity.limits),
            "memory": found.memory,
            "load": {"callers": found.load.callers, "rate": found.load.rate},
            "expected": _times(found.expected.rate, found.expected.mean, found.expected.percentile),
        },
        "before": findings.before and _run(findings.before),
        "after": findings.after and _run(findings.after),
        "steps": {step.name: _step(step) for step in findings.steps},
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "settings": _settings(run.settings),
        "load": {"callers": run.load.callers, "rate": run.load.rate},
        "measured": {
            **_times(run.outcome.rate, run.outcome.mean, run.outcome.percentile),
            "failed": run.outcome.failed,
            "memory": run.outcome.memory,
            "foreign_cores": run.outcome.foreign_cores,
        },
        "expected": run.expected and _times(run.expected.rate, run.expected.mean, run.expected.percentile),
        "rate_error": run.rate_error,
        "expected_memory": run.expected_memory,
        "time_error": run.time_error,
        "memory_error": run.memory_error,
    }


def _times(rate: float, mean: float, percentile: Any) -> dict[str, float]:
    return {"rate": rate, "mean": mean, "p50": percentile(50), "p95": percentile(95), "p99": percentile(99)}


def _settings(settings: Settings) -> Mapping[str, Mapping[str, int]]:
    return {name: own._asdict() for name, own in settings.items()}


def _step(step: StepFindings) -> dict[str, Any]:
    return {
        "visits": step.visits,
        "load_time": step.load_time,
        "notes": list(step.notes),
        "size_option": step.size_option,
        "rates": {str(count): rate for count, rate in step.rates.items()},
        "curves": step.costs
        and {
            str(threads): {
                "fixed": curve.fixed,
                "per_task": curve.per_task,
                "knee": curve.knee.size,
                "points": [vars(point) for point in curve.points],
            }
            for threads, curve in step.costs.curves.items()
        },
    }
