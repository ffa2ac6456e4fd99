import re

import pytest
from captions import flow
from fastapi import FastAPI
from main import app
from starlette.testclient import TestClient

from fastapi_aqueduct import Aqueduct, log
from fastapi_aqueduct.exceptions import ConfigurationError

OPERATOR = ("", "from-your-secrets")
CHANGE = {"flow": "captions", "step": "caption"}


def refuses_to_start() -> None:
    aqueduct = Aqueduct(flow)
    bare = FastAPI(lifespan=aqueduct.lifespan)
    bare.include_router(aqueduct.admin, prefix="/ops")
    with pytest.raises(ConfigurationError, match="no dependency stands before it"), TestClient(bare):
        pass


if __name__ == "__main__":
    log.setLevel("ERROR")  # changes are logged as warnings
    refuses_to_start()
    with TestClient(app) as client:
        assert client.get("/ops/").status_code == 401
        page = client.get("/ops/", auth=OPERATOR).text
        assert {*re.findall(r'(?:src|href)="([^"#:]+)"', page)} == {"status.css", "status.js"}
        (found,) = client.get("/ops/snapshot", auth=OPERATOR).json()["flows"]
        assert found["steps"][0]["replacements"] == ["large"]
        headers = {"Origin": "http://testserver", "X-Aqueduct-Action": "test"}
        for missing in headers:
            left = {name: value for name, value in headers.items() if name != missing}
            assert client.post("/ops/restart", json=CHANGE, auth=OPERATOR, headers=left).status_code == 403
        answer = client.post("/ops/scale", json={**CHANGE, "nprocs": 1}, auth=OPERATOR, headers=headers)
        assert answer.json() == {"detail": "scale to 1 step caption of flow captions: done"}
        body = {**CHANGE, "handler": "large"}
        assert client.post("/ops/replace", json=body, auth=OPERATOR, headers=headers).status_code in (200, 202)
        while client.post("/captions?text=cat").json() != "large:cat":
            pass
        body = {**CHANGE, "handler": "unknown"}
        assert client.post("/ops/replace", json=body, auth=OPERATOR, headers=headers).status_code == 422
