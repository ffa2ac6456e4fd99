import asyncio
import logging

from failing import Job, flow

from fastapi_aqueduct import WorkerDied

logging.getLogger("fastapi_aqueduct").setLevel(logging.CRITICAL)


async def main() -> None:
    async with flow:
        good, empty, poison = await asyncio.gather(
            *[flow.process(Job(text), 20) for text in ("good", "", "poison")], return_exceptions=True
        )
    assert isinstance(good, Job) and good.length == 4
    assert isinstance(empty, ValueError)
    assert isinstance(poison, WorkerDied) and poison.step == "measure" and poison.exit_code == 1


if __name__ == "__main__":
    asyncio.run(main())
