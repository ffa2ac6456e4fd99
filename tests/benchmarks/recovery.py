"""How long a worker that was killed is missed."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 9
WORKERS = (1, 4)
QUANTITIES = {
    "start": ("start of the whole flow, s", 2),
    "recovery": ("SIGKILL of one worker to the first answer of its replacement, s", 2),
    "pause": ("longest time without any answer, ms", 1),
    "failed": ("calls that failed", 0),
}


def measure() -> Report:
    """Kill one worker of a flow under load."""
    answers: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    for _ in range(ROUNDS):
        for workers in WORKERS:
            with Subject("-m", f"{__package__}.subjects.killed", workers) as subject:
                answers[workers].append(subject.read())
    rows = {
        (quantity, workers): Series(
            f"{workers} worker{'s' * (workers > 1)}",
            [answer[quantity] * (1000 if unit.endswith("ms") else 1) for answer in answers[workers]],
            digits,
            unit,
        )
        for quantity, (unit, digits) in QUANTITIES.items()
        for workers in WORKERS
    }
    return Report(
        title="recovery: a worker is killed while callers ask without a break",
        notes=["one step that does nothing; four callers for each worker; what a worker dies with is tried again"],
        rows=list(rows.values()),
        promises=[
            Promise(Series(f"calls that failed, {row.name}", row.values), 0)
            for (quantity, _), row in rows.items()
            if quantity == "failed"
        ],
    )
