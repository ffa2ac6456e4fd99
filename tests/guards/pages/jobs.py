"""The service and the script of the page on jobs."""

import runpy

from main import app
from starlette.testclient import TestClient

if __name__ == "__main__":
    with TestClient(app, headers={"x-user": "ann"}) as client:
        accepted = client.post("/transcripts?language=fr", content=bytes(2500), headers={"idempotency-key": "1"})
        assert accepted.status_code == 202
        assert client.post("/transcripts?language=fr", content=bytes(2500), headers={"idempotency-key": "1"}).json()[
            "id"
        ] == accepted.json()["id"]
        job = accepted.headers["location"]
        assert client.get(f"{job}?wait=30").json()["state"] == "completed"
        assert client.get(f"{job}/result").json() == {"text": "fr-0 fr-1 fr-2 "}
        events = client.get(job, headers={"accept": "text/event-stream"}).text
        assert 'event: item\ndata: "fr-1"\nid: 2' in events
        assert client.get(job, headers={"x-user": "bob"}).status_code == 404
        assert client.delete(job).status_code == 204
        assert client.get(job).status_code == 404
    runpy.run_path("script.py", run_name="__main__")
