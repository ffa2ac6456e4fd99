"""What a step costs while it sleeps, and how long its first task waits for the start of a worker."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 7
METHODS = ("spawn", "forkserver")
MOST_BEYOND = 0.3
MOST_ASLEEP = 25.0
QUANTITIES = {
    "answer": ("arrival of the first task to its answer, s", 2),
    "load": ("of which on_start, s", 2),
    "beyond": ("beyond on_start, s", 3),
    "awake": ("memory of the worker and its helpers, awake, MiB", 1),
    "asleep": ("the same, asleep, MiB", 1),
}


def measure() -> Report:
    """Let a step fall asleep and wake it."""
    answers: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(ROUNDS):
        for method in METHODS:
            with Subject("-m", f"{__package__}.subjects.sleeping", method) as subject:
                answers[method].append(subject.read())
    rows = {
        (quantity, method): Series(method, [answer[quantity] for answer in answers[method]], digits, unit)
        for quantity, (unit, digits) in QUANTITIES.items()
        for method in METHODS
    }
    return Report(
        title="sleep: a step with Autoscale(0, 1) falls asleep, and a task wakes it",
        notes=["a model of 200 MiB, and 0.5 s of on_start", "memory: PSS of all processes but the one that serves"],
        rows=list(rows.values()),
        promises=[
            Promise(Series(f"{rows[quantity, method].unit}: {method}", rows[quantity, method].values, 3), limit)
            for quantity, limit in (("beyond", MOST_BEYOND), ("asleep", MOST_ASLEEP))
            for method in METHODS
        ],
    )
