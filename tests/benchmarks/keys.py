"""Batches by key and by cost, for a model that pads texts to the longest of their batch."""

from __future__ import annotations

from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = 5
SECONDS = 4.0
CALLERS = 64
BATCH_SIZE = 16
CALL_TIME = 0.005
CHARACTER_TIME = 2e-6
SHORT, LONG = 128, 2048
LONG_SHARE = 0.1
LIMIT = 2 * LONG

NAMES = {
    "none": "batch_size alone",
    "key": "batch_key: the length",
    "cost": "batch_cost: characters",
    "both": "batch_key and batch_cost",
}


def measure() -> Report:
    """Have the same callers send texts to steps that differ in how they form batches."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for _ in range(ROUNDS):
        for name, answers in rounds.items():
            with Subject("-m", f"{__package__}.subjects.keyed", name, SECONDS) as subject:
                answers.append(subject.read())

    def rows(quantity: str, unit: str, digits: int = 0) -> dict[str, Series]:
        return {
            name: Series(NAMES[name], [answer[quantity] for answer in answers], digits, unit)
            for name, answers in rounds.items()
        }

    rate = rows("rate", "texts/s")
    padding = rows("padding", "padding, % of the characters")
    p99 = rows("p99", "p99 of the short texts, ms")
    return Report(
        title="keys: a model that pads texts to the longest of their batch, with and without keys",
        notes=[
            f"{CALLERS} callers, one worker, at most {BATCH_SIZE} in a batch; {LONG_SHARE:.0%} of the texts have "
            f"{LONG:,} characters, the others {SHORT}; the cost is limited to {LIMIT:,}",
            f"a call takes {CALL_TIME * 1000:.0f} ms and {CHARACTER_TIME * 1e6:.0f} us for each character, with those "
            "that are padding; it sleeps",
        ],
        rows=[*rate.values(), *padding.values(), *p99.values()],
        promises=[
            Promise(rate["key"].over(rate["none"], "texts/s: with a key / without"), 2.0, is_minimum=True),
            Promise(p99["key"].over(p99["none"], "p99 of the short texts: with a key / without"), 1.0),
        ],
    )
