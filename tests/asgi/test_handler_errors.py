"""What a handler raises reaches the application's exception handlers, and an error tracker, as itself."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

from fastapi_aqueduct import Aqueduct, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import forked, outcome, running
from . import failing
from .failing import Page, PageError, Refuse

flow = forked(Refuse())
app = FastAPI(lifespan=Aqueduct(flow).lifespan)


@app.post("/pages/{number}")
@flow_endpoint(flow)
async def read(task: Page) -> int:
    return task.number


@app.exception_handler(PageError)
async def explain(request: Request, exc: PageError) -> JSONResponse:
    return JSONResponse({"page": exc.page, "text": str(exc)}, 409)


async def test_exceptions_of_a_handler_reach_the_handlers_of_the_application() -> None:
    async with client(app) as http:
        refused = await http.post("/pages/1")
        assert (refused.status_code, refused.json()) == (422, {"detail": {"page": 1}})
        assert refused.headers["x-page"] == "1"
        explained = await http.post("/pages/2")
        assert (explained.status_code, explained.json()) == (409, {"page": 2, "text": "page 2: too dark"})


class Kept(Transport):
    """Keeps the events that it should send."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events.append(envelope.get_event())


@pytest.fixture
def tracker() -> Iterator[sentry_sdk.Client]:
    transport = Kept()
    tracker = sentry_sdk.Client(
        dsn="https://key@tracker.invalid/1",
        transport=transport,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    yield tracker
    tracker.close()


async def test_an_error_tracker_groups_by_the_line_of_the_handler(tracker: sentry_sdk.Client) -> None:
    async with running(forked(Refuse())) as flow:
        error = await outcome(flow.process(Page(3)))
    event, hint = event_from_exception(error, client_options=tracker.options)
    tracker.capture_event(event, hint)
    assert isinstance(tracker.transport, Kept)
    (sent,) = tracker.transport.events
    exception = sent["exception"]["values"][-1]
    assert (exception["type"], exception["value"]) == ("ValueError", "page 3 is torn")
    top = [frame for frame in exception["stacktrace"]["frames"] if frame["in_app"]][-1]
    assert top["module"] == failing.__name__
    assert top["function"] == "refuse"
    assert top["abs_path"] == failing.__file__
    assert top["context_line"].strip() == 'raise ValueError(f"page {number} is torn")'
    assert top["lineno"] == traceback.extract_tb(error.__traceback__)[-1].lineno
