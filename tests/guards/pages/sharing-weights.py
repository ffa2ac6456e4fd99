"""Runs the flow and the function of the page on sharing weights."""

import asyncio

from shared import Row, flow
from words import mood


async def main() -> None:
    async with flow:
        assert (await flow.process(Row(7))).total == 8.0
        template = flow.statistics().template
        assert template is not None
        assert template.pid is not None
    async with mood.flow:
        assert await mood("a good day") == 1


if __name__ == "__main__":
    asyncio.run(main())
