"""Tokens that are sent while they are made: what each costs, and when it comes."""

from __future__ import annotations

from . import token_contest
from .contest import SUBJECTS, Rows
from .report import Promise, Report, Series
from .servers.token_model import BATCH_WAIT, LONG_BATCH_WAIT, MAX_BATCH
from .subject import Subject
from .token_contest import ALONE, COST, END, LEAVING, MANY, ONE, RATE, ROUNDS, STEADY, STEP, Contestant

IDEAL = MAX_BATCH / STEP
"""Tokens per second of full batches without a pause between them."""

MOST_MEMORY = 32
"""MiB of shared memory for large items."""

MOST_LEAVING = 50
"""Milliseconds from leaving to the end of a generation."""

ENGINE = {
    "rate": ("engine alone: tokens/s", 0),
    "api": ("engine alone: us of the API process per token", 1),
    "worker": ("engine alone: us of the worker per token", 1),
    "memory": ("engine alone: MiB of shared memory, 600 items of 1 MB", 1),
}
"""The unit of each quantity of the engine alone, and its decimal places."""

OURS = "fastapi_aqueduct, continuous batching"
GENERATORS = "fastapi_aqueduct, generators, events"
EVERYTHING = (MANY, ONE, STEADY, ALONE, LEAVING)
CONTESTANTS = [
    Contestant("ours", f"{OURS}, events", "ours_streaming", "continuous-events", (MANY, ONE, STEADY, ALONE)),
    Contestant("ours-lines", f"{OURS}, JSON lines", "ours_streaming", "continuous-lines", (MANY, ONE)),
    Contestant("ours-plain", f"{OURS}, StreamingResponse", "ours_streaming", "continuous-plain", (MANY, ONE, STEADY)),
    Contestant("ours-generators", GENERATORS, "ours_streaming", "generators-events", (MANY, ONE, ALONE, LEAVING)),
    Contestant("ours-watched", OURS, "ours_streaming", "watched-events", (LEAVING,)),
    Contestant("thread", "FastAPI, one model thread and asyncio queues", "floor_streaming", "thread", EVERYTHING),
    Contestant("pool", "FastAPI, generators in the thread pool", "floor_streaming", "pool", EVERYTHING),
    Contestant("mosec", "Mosec", "mosec_streaming", "batch", (MANY, STEADY)),
    Contestant("mosec-alone", "Mosec", "mosec_streaming", "alone", (ONE, ALONE, LEAVING)),
    Contestant("litserve", "LitServe", "litserve_streaming", "batch", (MANY, STEADY), tokens=1920),
    Contestant("litserve-alone", "LitServe", "litserve_streaming", "alone", (ONE, ALONE, LEAVING), tokens=1920),
]


def measure() -> Report:
    """Load all servers in turns, then measure the engine alone."""
    rows = token_contest.run(CONTESTANTS)
    engine = [] if SUBJECTS else _measure_engine()
    return Report(
        title=f"streams: a model that makes a token for each of up to {MAX_BATCH} streams in each step",
        notes=[
            "each response is a stream of server-sent events, on a connection of its own; the client counts the tokens",
            "the processor time is that of all processes of a server",
            "without a step of 20 ms the model takes no time, so the table shows what all the rest costs",
            "FastAPI alone with a model thread: the least that a token can cost. It is an object in a queue, and "
            "nothing limits how far the thread is ahead of the client, but the model holds the GIL of the server",
            "beside it, nearly half of a token's cost in fastapi_aqueduct is the worker's, which pickles, frames and "
            "sends it; the server unpickles it and counts its window. That is the price of a process of its own, and "
            "why 0.7 of the model thread is not reached",
            f"the batches of Mosec and LitServe wait {BATCH_WAIT * 1000:.0f} ms and {LONG_BATCH_WAIT * 1000:.0f} ms "
            "for requests, since none can join later",
            "leaving: the client closes the connection after three tokens; a generation that does not notice ends "
            "after 1 s; inf: it has not ended after 2 s",
            "engine alone: flow.stream without HTTP",
        ],
        rows=[row for table in rows.values() for row in table.values()] + engine,
        promises=[
            *_costs(rows[MANY, COST], "ours", "mosec", 1.5),
            *_costs(rows[MANY, COST], "ours", "thread", 0.7),
            *[Promise(_share(row), 0.9, is_minimum=True) for key, row in rows[STEADY, RATE].items() if key == "ours"],
            *[Promise(row, MOST_LEAVING) for key, row in rows[LEAVING, END].items() if key.startswith("ours")],
            *[Promise(row, MOST_MEMORY) for row in engine if row.unit == ENGINE["memory"][0]],
        ],
    )


def _costs(costs: Rows, key: str, other: str, limit: float) -> list[Promise]:
    """Promise at least ``limit`` times as many tokens per second of the processor as another, if both took part."""
    if key not in costs or other not in costs:
        return []
    name = f"tokens per second of the processor, {costs[key].name} / {costs[other].name}"
    return [Promise(costs[other].over(costs[key], name), limit, is_minimum=True)]


def _share(rate: Series) -> Series:
    name = f"{rate.name}: share of the ideal {IDEAL:,.0f} tokens/s"
    return Series(name, [value / IDEAL for value in rate.values], digits=2)


def _measure_engine() -> list[Series]:
    series: dict[tuple[str, str], Series] = {}
    for _ in range(ROUNDS):
        with Subject("-m", f"{__package__}.subjects.streaming") as subject:
            for found in subject.read():
                name = found.pop("name")
                for quantity, value in found.items():
                    unit, digits = ENGINE[quantity]
                    series.setdefault((quantity, name), Series(name, [], digits, unit)).values.append(value)
    return [row for quantity in ENGINE for (key, _), row in series.items() if key == quantity]


if __name__ == "__main__":
    print(measure())
