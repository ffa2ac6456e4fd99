"""What tasks notice when the handler of a step is replaced."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject
from .subjects.replacing import HANDLE_TIME, LOAD_TIME, SHARE, WORKERS

ROUNDS = 9
MOST_P99 = 2.0
"""Of the 99th percentile without a replacement."""


def measure() -> Report:
    """Replace the handler again and again while tasks arrive."""
    answers: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        with Subject("-m", f"{__package__}.subjects.replacing") as subject:
            answers.append(subject.read())

    def series(name: str, quantity: str, digits: int, unit: str, factor: float = 1.0) -> Series:
        return Series(name, [answer[quantity] * factor for answer in answers], digits, unit)

    quiet = series("without a replacement", "quiet", 1, P99, 1000)
    replacing = series("while workers are replaced", "replacing", 1, P99, 1000)
    failed = series("tasks that failed", "failed", 0, "tasks")
    return Report(
        title=f"replacement: a step at {SHARE:.0%} of its capacity gets another handler, worker by worker",
        notes=[
            f"{WORKERS} workers; a call takes {HANDLE_TIME * 1000:g} ms, a load {LOAD_TIME:g} s; both sleep",
            "tasks arrive at random times, however late the answers are",
        ],
        rows=[
            failed,
            quiet,
            replacing,
            series("all workers replaced", "replacement", 2, "time of a replacement, s"),
        ],
        promises=[
            Promise(failed, 0),
            Promise(replacing.over(quiet, "p99 while workers are replaced : without"), MOST_P99),
        ],
    )


P99 = "99th percentile of the time of a task, ms"
