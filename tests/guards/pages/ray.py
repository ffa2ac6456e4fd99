import asyncio

import numpy as np
from pipeline import Picture, flow

from fastapi_aqueduct.testing import inline


async def main() -> None:
    async with inline(flow):
        task = Picture(np.ones((4, 4), np.uint8))
        await flow.process(task)
        assert (task.mean, task.pixels.shape, task.node) == (2.0, (2, 2), None)


if __name__ == "__main__":
    asyncio.run(main())
