from concurrent.futures import ThreadPoolExecutor

import application
import cached
from scans import flow
from starlette.testclient import TestClient

PICTURE = bytes(100_000)
KEYS = ("secret of ann", "secret of bob")

if __name__ == "__main__":
    for app in (application.app, cached.app):
        with TestClient(app) as client, ThreadPoolExecutor(8) as threads:

            def scan(number: int, client: TestClient = client) -> str:
                headers = {"x-api-key": KEYS[number % 2]}
                text: str = client.post("/scan", content=PICTURE, headers=headers).json()
                return text

            answers = list(threads.map(scan, range(40)))
            assert answers == ["ann reads 100000 bytes", "bob reads 100000 bytes"] * 20
            assert client.post("/scan", content=PICTURE, headers={"x-api-key": "x"}).status_code == 401
            statistics = flow.statistics()
            assert statistics.completed >= 2
            if app is cached.app:
                assert statistics.completed < 40
                assert len(cached.cache.results) == 2
