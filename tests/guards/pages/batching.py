import asyncio
import time

from batches import classify


async def main() -> None:
    async with classify.flow:
        await classify("warm")
        begun = time.monotonic()
        results = await asyncio.gather(*[classify("x" * number) for number in range(32)])
        assert results == list(range(32))
        assert time.monotonic() - begun < 32 * 0.05 / 2


if __name__ == "__main__":
    asyncio.run(main())
