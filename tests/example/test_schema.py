"""The example application does what its OpenAPI schema says, whatever it is sent."""

import re

import httpx
import pytest

from example_app.service import Service
from tests.schema import check_service

# No schema can say which bytes are a picture.
SETTINGS = """
    [checks.positive_data_acceptance]
    expected-statuses = ["2xx", "413", "415", "422"]
"""


def check(service: Service, examples: int) -> None:
    verdict = check_service(service.url, examples, hooks="tests.example.picture_data", settings=SETTINGS)
    assert verdict.holds, verdict.output
    # It found its way to the models, and to every kind of refusal.
    assert verdict.statuses.keys() >= {200, 405, 415, 422} and max(verdict.statuses) < 500
    log = service.read_log()
    assert "Traceback" not in log and " 500 " not in log
    with httpx.Client(base_url=service.url) as client:
        assert client.get("/ready").status_code == 200
        metrics = client.get("/metrics").text
    held = re.findall(r"^aqueduct_arena_bytes\{.*(?:leased|retained|used).*\} (.+)", metrics, re.MULTILINE)
    assert held == ["0.0"] * 3


def test_every_answer_is_as_documented(service: Service) -> None:
    check(service, examples=2)


@pytest.mark.long
def test_every_answer_is_as_documented_for_long(service: Service) -> None:
    check(service, examples=700)
