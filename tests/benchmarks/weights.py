"""What workers with a large model take, each with its own copy or forked from a template."""

from __future__ import annotations

from .processes import MIB
from .report import Promise, Report, Series
from .subject import Subject
from .subjects.heavy import SIZE

ROUNDS = 3
COUNTS = (1, 2, 4, 6, 8)
WAYS = ("spawn", "template")
SIX = 6

MOST_PRIVATE = 0.1
MOST_FURTHER = 0.1
MOST_START = 1.5

TABLES = {
    "total": ("memory of all workers and the template, MiB", 0),
    "private": ("most private memory of a worker, MiB", 1),
    "start": ("start of the flow, s", 2),
    "further": ("SIGKILL of a worker until another one is ready, s", 3),
}

Answers = dict[tuple[str, int], list[dict[str, float]]]


def measure() -> Report:
    """Start a flow in both ways with more and more workers."""
    answers: Answers = {(way, count): [] for count in COUNTS for way in WAYS}
    for _ in range(ROUNDS):
        for (way, count), told in answers.items():
            with Subject("-m", f"{__package__}.subjects.weights", way, count) as subject:
                told.append(subject.read())
    rows = {
        (quantity, way, count): Series(
            f"{way}, {count} worker{'s' * (count > 1)}",
            [answer[quantity] / (MIB if unit.endswith("MiB") else 1) for answer in answers[way, count]],
            digits,
            unit,
        )
        for quantity, (unit, digits) in TABLES.items()
        for way in WAYS
        for count in COUNTS
    }
    shares = [answer["private"] / SIZE for answer in answers["template", COUNTS[-1]]]
    further = rows["further", "template", COUNTS[-1]]
    start = rows["start", "template", SIX].over(
        rows["start", "spawn", 1], f"start of {SIX} workers from a template / start of one that loads itself"
    )
    return Report(
        title="weights: a model of 300 MB and a module that takes a second to import",
        notes=[
            "every call reads the whole model; memory after four calls for each worker",
            "private: Private_Clean and Private_Dirty of proc(5); memory of all: PSS, shared memory counted once",
        ],
        rows=list(rows.values()),
        promises=[
            Promise(Series("private memory of one of 8 workers / the model", shares, digits=3), MOST_PRIVATE),
            Promise(Series("until a further worker is ready, s", further.values, digits=3), MOST_FURTHER),
            Promise(start, MOST_START),
        ],
    )
