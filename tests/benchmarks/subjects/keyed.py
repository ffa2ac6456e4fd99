"""Callers of texts of two lengths and a model that pads them; tells how many it has answered, and what was padding."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Cost, Flow, FlowStep

from ..keys import BATCH_SIZE, CALL_TIME, CALLERS, CHARACTER_TIME, LIMIT, LONG, LONG_SHARE, SHORT
from ..subject import say, wait_for_end


@dataclass
class Text(BaseTask):
    length: int
    padded: int = field(default=0, init=False)


def bucket_of(task: Text) -> int:
    return -(-task.length // SHORT)


class Embed(BaseTaskHandler):
    """Takes a time for each call, and for each character of a batch whose texts are padded to the longest of them."""

    def handle(self, *tasks: Text) -> None:
        longest = max(task.length for task in tasks)
        time.sleep(CALL_TIME + CHARACTER_TIME * longest * len(tasks))
        for task in tasks:
            task.padded = longest


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "key": {"batch_key": bucket_of},
    "cost": {"batch_cost": Cost("length", limit=LIMIT)},
    "both": {"batch_key": bucket_of, "batch_cost": Cost("length", limit=LIMIT)},
}


async def main(options: str, seconds: float) -> None:
    step = FlowStep(Embed(), batch_size=BATCH_SIZE, **OPTIONS[options])
    async with Flow(step, mp_start_method="forkserver") as flow:
        texts: list[tuple[Text, float]] = []
        end = time.monotonic() + seconds

        async def call(number: int) -> None:
            chance = random.Random(number)
            while (begun := time.monotonic()) < end:
                text = Text(LONG if chance.random() < LONG_SHARE else SHORT)
                await flow.process(text, 60)
                texts.append((text, time.monotonic() - begun))

        await asyncio.gather(*map(call, range(CALLERS)))
        waits = sorted(wait for text, wait in texts if text.length == SHORT)
        say(
            {
                "rate": len(texts) / seconds,
                "padding": 100 - 100 * sum(text.length for text, _ in texts) / sum(text.padded for text, _ in texts),
                "p99": 1000 * waits[int(0.99 * len(waits))],
            }
        )
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
