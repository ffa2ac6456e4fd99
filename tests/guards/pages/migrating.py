import asyncio

from after_pool import look_up


async def main() -> None:
    async with look_up.flow:
        assert await asyncio.gather(look_up("yes"), look_up("maybe"), look_up("maybe", default=7)) == [1, -1, 7]


if __name__ == "__main__":
    asyncio.run(main())
