import asyncio

from from_aqueduct import Task, flow


async def main() -> None:
    async with flow:
        assert (await flow.process(Task("four"))).length == 4


if __name__ == "__main__":
    asyncio.run(main())
