import asyncio

from labels import Text, flow
from main import app
from starlette.testclient import TestClient
from trials import compare, roll_out

from fastapi_aqueduct.testing import inline


async def try_out() -> None:
    async with flow:
        assert await roll_out("v3", watch_for=0)
        assert (await flow.process(Text("a"))).label == "v3:a"
        comparing = asyncio.create_task(compare("v4", pairs=2))
        while not comparing.done():
            assert (await flow.process(Text("a"))).label == "v3:a"
        assert comparing.result() == 2


if __name__ == "__main__":
    with TestClient(app) as client:
        assert client.post("/label?text=a").json() == "v1:a"
        assert client.put("/ops/model/v2").status_code == 401
        key = {"X-Admin-Key": "secret"}
        assert client.put("/ops/model/v2", headers=key).json() == 2
        assert client.post("/label?text=a").json() == "v2:a"
        assert {step["version"] for step in client.get("/ready").json()["steps"]} == {2}
    with inline(flow):
        asyncio.run(try_out())
