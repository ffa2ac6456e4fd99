from main import app
from starlette.testclient import TestClient

if __name__ == "__main__":
    with TestClient(app) as client:
        answer = client.post("/scans?tenant=other", headers={"x-api-key": "k1"}, content=b"picture")
        assert answer.json() == "7 bytes of acme", answer.text
        urgent = {"x-api-key": "k2", "x-urgent": "true"}
        assert client.post("/scans", headers=urgent, content=b"ab").json() == "2 bytes of initech"
        assert client.post("/scans", headers={"x-api-key": "none"}, content=b"ab").status_code == 401
        shown = client.get("/openapi.json").json()["paths"]["/scans"]["post"]["parameters"]
        assert {parameter["name"] for parameter in shown} == {"x-api-key", "x-urgent"}
