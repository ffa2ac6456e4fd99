from app_after import app
from app_own import app as own
from starlette.testclient import TestClient

with TestClient(app) as client:
    assert client.post("/words?text=a+b").status_code == 401
    answer = client.post(
        "/words?text=a+b+c", headers={"authorization": "Bearer secret", "origin": "https://shop.example"}
    )
    assert answer.json() == 3
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert client.get("/ready").status_code == 200
    assert "aqueduct_workers" in client.get("/metrics").text
with TestClient(own) as client:
    assert client.post("/words?text=a+b+c").json() == 3
