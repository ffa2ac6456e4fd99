"""The same task by a bare `Exchange`."""

from __future__ import annotations

import asyncio
import sys

from ..exchange import Exchange
from ..subject import say, wait_for_end
from .callers import Callers, make_loop


async def main(callers: int) -> None:
    with Exchange() as exchange:
        say(await Callers(lambda: exchange.call({"value": 1, "result": None}), callers).drive())
        wait_for_end()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: make_loop(sys.argv[1])) as runner:
        runner.run(main(int(sys.argv[2])))
