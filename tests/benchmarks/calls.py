"""Tasks through `Flow.process` without HTTP, beside the package ``aqueduct`` and the least that can be done."""

from __future__ import annotations

from . import exchange
from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 5
LEAST = {1: 3, 32: 10, 256: 15, 2000: 15}
"""How many times aqueduct's rate ours is at least, by the number of callers."""

MOST_P99 = 3
"""How many times the median the 99th percentile is at most."""

THEIRS, BARE, OURS = "aqueduct", "a bare process that echoes", "fastapi_aqueduct"
SUBJECTS = {THEIRS: "noop_aqueduct", BARE: "noop_bare", OURS: "noop"}
BARE_MOST = 32
"""Callers of the bare process: its socket does not bear many hundreds."""

RUNS = [(callers, name) for callers in LEAST for name in SUBJECTS if name != BARE or callers <= BARE_MOST]
QUANTITIES = {
    "rate": ("tasks/s", 0),
    "p50": ("p50, ms", 2),
    "p99": ("p99, ms", 2),
    "cpu": ("CPU of the calling process per task, us", 0),
}

NOTES = [
    "one no-op step, one worker; each caller processes one task after the other; the same task class",
    "each with its default start method and queue size",
    "aqueduct: its DEBUG lines (one for each task and step) switched off, its metrics as they are by default",
    exchange.NOTE,
    "a call that has not come back since before the measurement counts with the time it has waited so far",
]


def measure() -> Report:
    """Run both in turns, on asyncio's own event loop."""
    series = _run("asyncio")
    ratios = [_ratio(series, callers) for callers in LEAST]
    return Report(
        title="calls: flow.process without HTTP, on asyncio's own event loop",
        notes=NOTES,
        rows=list(series.values()),
        promises=[
            *(Promise(ratio, limit, is_minimum=True) for ratio, limit in zip(ratios, LEAST.values(), strict=True)),
            *(Promise(_spread(series, callers), MOST_P99) for callers in LEAST),
        ],
    )


def measure_uvloop() -> Report:
    """The same on uvloop, on which aqueduct bears more callers."""
    series = _run("uvloop")
    return Report(
        title="calls: flow.process without HTTP, on uvloop",
        notes=NOTES,
        rows=[*series.values(), *(_ratio(series, callers) for callers in LEAST)],
        promises=[Promise(_spread(series, callers), MOST_P99) for callers in LEAST],
    )


Key = tuple[str, str, int]
"""A quantity, whose, and with how many callers."""


def _run(loop: str) -> dict[Key, Series]:
    series = {
        (quantity, name, callers): Series(_title(name, callers), [], digits, unit)
        for quantity, (unit, digits) in QUANTITIES.items()
        for callers, name in RUNS
    }
    for _ in range(ROUNDS):
        for callers, name in RUNS:
            with Subject("-m", f"{__package__}.subjects.{SUBJECTS[name]}", loop, callers) as subject:
                answer = subject.read()
            for quantity in QUANTITIES:
                series[quantity, name, callers].values.append(answer[quantity])
    return series


def _title(name: str, callers: int) -> str:
    return f"{name}, {callers:,} caller{'s' * (callers > 1)}"


def _ratio(series: dict[Key, Series], callers: int) -> Series:
    ours, theirs = (series["rate", name, callers] for name in (OURS, THEIRS))
    ratio = ours.over(theirs, f"{_title(OURS, callers)} / {THEIRS}")
    return Series(ratio.name, ratio.values, ratio.digits, "ratio of tasks/s")


def _spread(series: dict[Key, Series], callers: int) -> Series:
    p50, p99 = (series[quantity, OURS, callers] for quantity in ("p50", "p99"))
    return p99.over(p50, f"{_title(OURS, callers)}: p99 / p50")
