"""What it costs and gains to wait for a fuller batch: ``batch_timeout="auto"`` beside fixed times, without HTTP."""

from __future__ import annotations

import json

from .report import Promise, Report, Series
from .servers.work import BATCH_SIZE, CALL_TIME, TASK_TIME
from .subject import Subject

ROUNDS = 1
AUTO, TEN, NONE = "auto", "10 ms", "no wait"
TIMEOUTS = {AUTO: "auto", TEN: 0.010, NONE: 0}
CALLERS = (4, 64)
RATES = (50, 150, 300, 500)
TRAFFICS = [*(("callers", amount) for amount in CALLERS), *(("random", amount) for amount in RATES)]
QUANTITIES = {"rate": ("tasks/s", 0), "p50": ("p50, ms", 1), "p99": ("p99, ms", 1)}

Key = tuple[str, str, str, int]
"""A quantity, how the batch waits, the kind of traffic and how much of it."""


def measure() -> Report:
    """Run all in turns."""
    series = _run()
    return Report(
        title=f"waiting: a model that takes {CALL_TIME * 1000:.0f} ms and {TASK_TIME * 1000:.0f} ms more per task",
        notes=[
            f"flow.process without HTTP, one worker, at most {BATCH_SIZE} tasks in a batch",
            "callers: each goes on when it has its answer, in a turn of the event loop of its own",
            "random: Poisson arrivals, the same for all",
        ],
        rows=list(series.values()),
        promises=[
            *_at_least_ideal(series, AUTO, 4, 0.9),
            *(promise for how in (AUTO, TEN) for promise in _at_least_ideal(series, how, 64, 0.97)),
            *_no_worse(series),
        ],
    )


def _run() -> dict[Key, Series]:
    series = {
        (quantity, how, kind, amount): Series(f"{_title(kind, amount)}, {how}", [], digits, unit)
        for quantity, (unit, digits) in QUANTITIES.items()
        for kind, amount in TRAFFICS
        for how in TIMEOUTS
    }
    for _ in range(ROUNDS):
        for kind, amount in TRAFFICS:
            for how, timeout in TIMEOUTS.items():
                with Subject("-m", f"{__package__}.subjects.waiting", json.dumps(timeout), kind, amount) as subject:
                    answer = subject.read()
                for quantity in QUANTITIES:
                    series[quantity, how, kind, amount].values.append(answer[quantity])
    return series


def _title(kind: str, amount: int) -> str:
    return f"{amount} {kind}" if kind == "callers" else f"{amount}/s at {kind}"


def _at_least_ideal(series: dict[Key, Series], how: str, callers: int, share: float) -> list[Promise]:
    batch = min(callers, BATCH_SIZE)
    ideal = batch / (CALL_TIME + TASK_TIME * batch)
    rate = series["rate", how, "callers", callers]
    ratio = Series(f"{rate.name} / ideal {ideal:.0f}/s", [value / ideal for value in rate.values], digits=3)
    return [Promise(ratio, share, is_minimum=True)]


def _no_worse(series: dict[Key, Series]) -> list[Promise]:
    """Promise that nothing is lost beyond what two runs of the same differ by."""
    promises = []
    for kind, amount in TRAFFICS:
        for quantity, limit in (("rate", 0.97), ("p50", 1.05), ("p99", 1.1)):
            ours = series[quantity, AUTO, kind, amount]
            for how in (TEN, NONE):
                ratio = ours.over(series[quantity, how, kind, amount], f"{quantity}, {ours.name} / {how}")
                promises.append(Promise(ratio, limit, is_minimum=quantity == "rate"))
    return promises
