from several import app
from starlette.testclient import TestClient

if __name__ == "__main__":
    with TestClient(app) as client:
        assert client.post("/count?text=a+b").json() == 2
        assert client.post("/reverse?text=abc").json() == "cba"
        assert {step["flow"] for step in client.get("/ready").json()["steps"]} == {"counting", "reverse"}
