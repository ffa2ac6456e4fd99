"""Tasks per second through `Flow.process`, beside the package ``aqueduct``."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 9
CALLERS = 32

SUBJECTS = {"aqueduct": "noop_aqueduct", "fastapi_aqueduct": "noop"}
QUANTITIES = {"rate": "tasks per second", "cpu": "CPU of the calling process per task, us"}


def measure() -> Report:
    """Run both in turns."""
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in SUBJECTS}
    for _ in range(ROUNDS):
        for name, module in SUBJECTS.items():
            with Subject("-m", f"{__package__}.subjects.{module}", CALLERS) as subject:
                answers[name].append(subject.read())
    theirs, ours = (_series(name, answers, "rate") for name in SUBJECTS)
    ratio = ours.over(theirs, "fastapi_aqueduct / aqueduct")
    return Report(
        title=f"throughput: one no-op step, one worker, {CALLERS} callers of flow.process",
        notes=[
            "the same task class, asyncio's own event loop, each with its default start method",
            "aqueduct: its DEBUG lines (one for each task and step) switched off, its metrics as they are by default",
        ],
        rows=[theirs, ours, *(_series(name, answers, "cpu") for name in SUBJECTS)],
        promises=[Promise(ratio, limit=8, is_minimum=True)],
    )


def _series(name: str, answers: dict[str, list[dict[str, float]]], quantity: str) -> Series:
    return Series(f"{name}, {QUANTITIES[quantity]}", [answer[quantity] for answer in answers[name]])
