import asyncio
import runpy

import test_functions
from main import app
from scoring import pool, score, score_with_others
from starlette.testclient import TestClient


async def use_the_pool() -> None:
    async with pool.flow:
        assert await asyncio.gather(score("good good"), score_with_others("bad")) == [2.0, -1.0]


if __name__ == "__main__":
    asyncio.run(use_the_pool())
    with TestClient(app) as client:
        assert client.post("/stars?text=four").json() == 5
        assert client.post("/brighten", content=bytes([1, 250])).content == bytes([21, 255])
        assert client.post("/generate?text=a+text").text == 'data: "A"\n\ndata: "TEXT"\n\n'
        assert client.get("/about?name=names").json() == "all about names"
    test_functions.test_stars()
    test_functions.test_the_endpoints()
    runpy.run_path("script.py", run_name="__main__")
