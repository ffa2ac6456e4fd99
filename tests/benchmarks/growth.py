"""How the CPU time of the calling process for each task grows: with the queue, the workers, the steps, the payload."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import linear_regression

from .plot import Plot
from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 7
DEPTHS = (1, 10, 100, 1_000, 10_000, 100_000)
SHARED_DEPTH = 100
"""Below, a wake-up and a turn of the event loop serve fewer tasks, so that each costs more."""

WORKERS = (1, 4, 16, 64)
STEPS = (1, 2, 3, 4, 5, 6)
KIB, MIB = 1 << 10, 1 << 20
PAYLOADS = (KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
LARGE_PAYLOADS = (16 * MIB, 64 * MIB)
"""Here the copy is nearly everything; the rest is as much as for any task."""

MOST_BY_DEPTH = 1.3
MOST_BY_WORKERS = 1.5
MOST_FROM_LINE = 10.0
MOST_COPIES = 1.2

CPU = "CPU per task, us"


def measure_depth() -> Report:
    """Let more and more tasks come at once."""
    with_flow, alone = _run("depth", DEPTHS)
    memory, memory_alone = _run("memory", DEPTHS[-1:])
    beyond = {depth: with_flow[depth].minus(alone[depth], f"{depth:,} beyond asyncio's own") for depth in DEPTHS}
    name = f"CPU of a task beyond asyncio's own, {DEPTHS[-1]:,} at once / {SHARED_DEPTH}"
    return Report(
        title="growth with the queue: the tasks come at once, one step, one worker",
        notes=[
            "asyncio's own: as many callers that wait for an asyncio.Event, in the same process; Python's garbage "
            "collector looks at all of them again and again, and is what grows with their number",
            "the collector is set as it is wherever an application runs a flow",
        ],
        rows=[
            *_rows(with_flow, "{:,} at once", CPU),
            *_rows(alone, "{:,} at once", "asyncio's own, us"),
            *_rows(memory, "{:,} in the queue, each with its caller", "memory of one, bytes"),
            *_rows(memory_alone, "{:,} callers that wait for an asyncio.Event", "memory of one, bytes"),
        ],
        promises=[Promise(beyond[DEPTHS[-1]].over(beyond[SHARED_DEPTH], name), MOST_BY_DEPTH)],
        plots=[
            Plot(
                "CPU of the API process against the depth of the queue",
                "tasks that come at once",
                "CPU per task, µs",
                {"flow.process": _points(with_flow), "asyncio's own": _points(alone)},
                log_x=True,
            )
        ],
    )


def measure_workers() -> Report:
    """Share the work among more and more workers."""
    (costs,) = _run("workers", WORKERS)
    return Report(
        title="growth with the workers: one step, 32 callers for each worker",
        notes=[],
        rows=_rows(costs, "workers: {}", CPU),
        promises=[
            Promise(costs[count].over(costs[WORKERS[0]], f"CPU of a task, {count} workers / 1"), MOST_BY_WORKERS)
            for count in WORKERS[1:]
        ],
        plots=[
            Plot(
                "CPU of the API process against the number of workers",
                "workers",
                "CPU per task, µs",
                {"flow.process": _points(costs)},
                log_x=True,
            )
        ],
    )


def measure_steps() -> Report:
    """Take the tasks through more and more steps."""
    (costs,) = _run("steps", STEPS)
    distances = Series("largest distance of a median from the straight line, %", [_distance(_points(costs))], digits=1)
    return Report(
        title="growth with the steps: one worker each, 32 callers for each step",
        notes=[
            "linear: the medians lie near the straight line that fits them best",
            "with 32 callers in all fewer tasks travel together the more steps there are: 16 with one, 5 with six",
        ],
        rows=_rows(costs, "steps: {}", CPU),
        promises=[Promise(distances, MOST_FROM_LINE)],
        plots=[
            Plot(
                "CPU of the API process against the number of steps",
                "steps",
                "CPU per task, µs",
                {"flow.process": _points(costs)},
            )
        ],
    )


def measure_payload() -> Report:
    """Send larger and larger payloads, one at a time."""
    costs, copies = _run("payload", PAYLOADS)
    promises = []
    for size in LARGE_PAYLOADS:
        beyond = costs[size].minus(costs[KIB], f"{size // MIB} MiB beyond 1 KiB")
        name = f"CPU of a task of {size // MIB} MiB beyond one of 1 KiB / copying {size // MIB} MiB"
        promises.append(Promise(beyond.over(copies[size], name), MOST_COPIES))
    return Report(
        title="growth with the payload: a numpy array, one caller, one step",
        notes=["one copy: into shared memory that has been used before, with numpy, after a trip like the others"],
        rows=[
            *(Series(_size(size), costs[size].values, 0, CPU) for size in PAYLOADS),
            *(Series(_size(size), copies[size].values, 0, "CPU of one copy, us") for size in PAYLOADS),
        ],
        promises=promises,
        plots=[
            Plot(
                "CPU of the API process against the size of the payload",
                "payload, bytes",
                "CPU per task, µs",
                {"flow.process": _points(costs), "one copy into warm shared memory": _points(copies)},
                log_x=True,
                log_y=True,
            )
        ],
    )


Costs = dict[int, Series]
"""What was measured, by what grows."""


def _run(kind: str, sizes: Sequence[int]) -> list[Costs]:
    rounds: list[list[list[float]]] = []
    for _ in range(ROUNDS):
        with Subject("-m", f"{__package__}.subjects.growing", kind, *sizes) as subject:
            rounds.append(subject.read())
    columns = range(len(rounds[0][0]))
    return [
        {size: Series("", [values[row][column] for values in rounds]) for row, size in enumerate(sizes)}
        for column in columns
    ]


def _rows(costs: Costs, name: str, unit: str) -> list[Series]:
    return [Series(name.format(size), series.values, 1, unit) for size, series in costs.items()]


def _points(costs: Costs) -> list[tuple[float, float]]:
    return [(size, series.median) for size, series in costs.items()]


def _distance(points: list[tuple[float, float]]) -> float:
    slope, intercept = linear_regression(*zip(*points, strict=True))
    return max(abs(y / (slope * x + intercept) - 1) for x, y in points) * 100


def _size(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
