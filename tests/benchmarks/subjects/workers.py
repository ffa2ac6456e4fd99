"""A flow with one worker of each trivial handler; tells their process ids and waits."""

from __future__ import annotations

import asyncio

from fastapi_aqueduct import BaseTask, Flow, FlowStep

from ..subject import say, wait_for_end
from .trivial import Nothing
from .trivial_numpy import NothingWithNumpy


async def main() -> None:
    async with Flow(FlowStep(Nothing()), FlowStep(NothingWithNumpy())) as flow:
        await flow.process(BaseTask())
        plain, numpy = (step.workers[0].pid for step in flow.statistics().steps)
        say({"plain": plain, "numpy": numpy})
        wait_for_end()


if __name__ == "__main__":
    asyncio.run(main())
