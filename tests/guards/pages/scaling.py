from main import app
from speech import transcribe
from starlette.testclient import TestClient

if __name__ == "__main__":
    with TestClient(app) as client:
        assert client.post("/transcribe", content=b"1234").json() == "4 bytes of speech"
        client.post("/admin/workers?number=0").raise_for_status()
        (step,) = client.get("/ready").raise_for_status().json()["steps"]
        assert (step["workers"], step["asleep"]) == (0, True)
        assert client.post("/transcribe", content=b"1234").json() == "4 bytes of speech"
        assert transcribe.flow.steps["transcribe"].statistics().nprocs == 1
