"""The service does what its OpenAPI schema says, whatever it is sent."""

from __future__ import annotations

import pytest

from example_app.chat.demo import APPLICATION
from example_app.service import running_service

from ..schema import check_service
from .questions import MODEL


@pytest.mark.long
def test_every_answer_is_as_documented() -> None:
    with running_service(APPLICATION, 0, {"CHAT_MODEL": MODEL}) as service:
        service.wait_until_ready()
        verdict = check_service(service.url, 200, hooks="tests.chat.schema_data")
        assert verdict.holds, verdict.output
        # It found its way to the model, and to every kind of refusal.
        assert verdict.statuses.keys() >= {200, 400, 404, 405} and max(verdict.statuses) < 500
        log = service.read_log()
        assert "Traceback" not in log and " 500 " not in log
