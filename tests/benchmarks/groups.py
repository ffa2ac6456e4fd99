"""Two steps side by side, in a group, beside the same steps in a row."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 7
KINDS = {"group": "side by side", "row": "in a row"}
MOST_MS = 25.0
"""Of a task whose two steps take 20 ms each."""

MOST_COST = 1.1
"""How many times the processor time of steps in a row."""

QUANTITIES = {
    "latency": ("a task whose two steps take 20 ms each, ms", 1),
    "busy": ("processor time of the API process per task, two steps of 20 ms, us", 0),
    "small": ("the same with steps that do nothing, us", 0),
    "large": ("the same with steps that do nothing and an input of 1 MiB, us", 0),
}


def measure() -> Report:
    """Run both in turns."""
    answers: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            with Subject("-m", f"{__package__}.subjects.branches", kind) as subject:
                answers[kind].append(subject.read())
    rows = {
        (quantity, kind): Series(name, [answer[quantity] for answer in answers[kind]], digits, unit)
        for quantity, (unit, digits) in QUANTITIES.items()
        for kind, name in KINDS.items()
    }
    cost = rows["busy", "group"].over(rows["busy", "row"], "processor time, steps of 20 ms: side by side / in a row")
    latency = rows["latency", "group"]
    return Report(
        title="groups: two steps side by side, between two others",
        notes=["four steps with a worker each; latency: one task after the other; processor time: 32 callers"],
        rows=list(rows.values()),
        promises=[
            Promise(Series("two steps of 20 ms side by side, ms", latency.values, 1), MOST_MS),
            Promise(cost, MOST_COST),
        ],
    )
