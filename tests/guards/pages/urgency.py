import asyncio

from application import app
from starlette.testclient import TestClient
from urgent import flow, paid


async def main() -> None:
    async with flow:
        assert await paid("a") == 1


if __name__ == "__main__":
    asyncio.run(main())
    with TestClient(app) as client:
        assert client.post("/work?name=b", headers={"x-plan": "paid"}).json() == 1
