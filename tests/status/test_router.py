"""The router of the status page without a browser: who may see it, what it answers, and what its buttons may do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, Jobs
from fastapi_aqueduct.asgi.status.origin import HEADER, check_origin
from fastapi_aqueduct.exceptions import ConfigurationError
from fastapi_aqueduct.metrics.families import REASONS

from ..asgi.support import bare_client, serving
from ..handlers import Each, Job, Whole, add_one, raise_if_bad
from ..shared.pipeline import in_a_pipeline
from ..support import forked

BASE = "http://test"
ACTION = {HEADER: "test", "Origin": BASE}


POLICY = {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"}


def operator() -> None:
    """Stands for a function that refuses all but the operators."""


GUARDED = [Depends(operator)]


def included(aqueduct: Aqueduct, **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(aqueduct.admin, prefix="/ops", **options)
    return app


def guarded(aqueduct: Aqueduct) -> FastAPI:
    return included(aqueduct, dependencies=GUARDED)


def guarded_application(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI(dependencies=GUARDED)
    app.include_router(aqueduct.admin)
    return app


def guarded_router(aqueduct: Aqueduct) -> FastAPI:
    router = APIRouter(dependencies=GUARDED)
    router.include_router(aqueduct.admin, prefix="/status")
    app = FastAPI()
    app.include_router(router, prefix="/ops")
    return app


def guarded_and_mounted(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI()
    app.mount("/inner", guarded(aqueduct))
    return app


def mounted_on_guarded(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI(dependencies=GUARDED)  # they do not hold for what is mounted
    app.mount("/inner", included(aqueduct))
    return app


def mounted_router(aqueduct: Aqueduct) -> FastAPI:
    app = FastAPI(dependencies=GUARDED)
    app.mount("/ops", aqueduct.admin)
    return app


def guarded_once_of_twice(aqueduct: Aqueduct) -> FastAPI:
    app = guarded(aqueduct)
    app.include_router(aqueduct.admin, prefix="/open")
    return app


def plain(aqueduct: Aqueduct) -> Starlette:
    return Starlette(routes=aqueduct.admin.routes)


@pytest.mark.parametrize("make", [guarded, guarded_application, guarded_router, guarded_and_mounted])
def test_a_dependency_before_the_page_is_enough(make: Callable[[Aqueduct], FastAPI]) -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)))
    aqueduct._page.check(make(aqueduct))


@pytest.mark.parametrize("make", [included, mounted_on_guarded, mounted_router, guarded_once_of_twice, plain])
async def test_a_page_for_all_is_refused_at_the_start(make: Callable[[Aqueduct], Starlette]) -> None:
    flow = Flow(Each(add_one))
    aqueduct = Aqueduct(flow)
    app = make(aqueduct)
    with pytest.raises(ConfigurationError, match=r"dependencies=\[Depends\(check\)\].*admin_is_public=True"):
        async with aqueduct.run(app):
            pass
    assert flow.state == "stopped"


def test_a_page_may_be_for_all_on_request() -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)), admin_is_public=True)
    aqueduct._page.check(included(aqueduct))


class Wrapped:
    """Hides the routes of an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def test_a_hidden_page_refuses_each_request() -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)))
    app = FastAPI()
    app.mount("/hidden", Wrapped(included(aqueduct)))
    app.mount("/fine", Wrapped(guarded(aqueduct)))
    aqueduct._page.check(app)
    async with bare_client(app) as client:
        for path in ("", "status.js", "snapshot", "events"):
            assert (await client.get(f"/hidden/ops/{path}")).status_code == 403
        assert (await client.post("/hidden/ops/restart", json=_change(), headers=ACTION)).status_code == 403
        assert (await client.get("/fine/ops/")).status_code == 200


async def test_the_dependency_decides() -> None:
    def refuse(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer operator":
            raise HTTPException(401)

    aqueduct = Aqueduct(Flow(Each(add_one)))
    async with bare_client(included(aqueduct, dependencies=[Depends(refuse)])) as client:
        for path in ("/", "/status.css", "/status.js", "/snapshot", "/events"):
            assert (await client.get(f"/ops{path}")).status_code == 401
        for path in ("restart", "scale", "replace"):
            assert (await client.post(f"/ops/{path}", json=_change(), headers=ACTION)).status_code == 401
        found = await client.get("/ops/", headers={"Authorization": "Bearer operator"})
        assert found.status_code == 200


async def test_every_answer_has_the_headers() -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)))
    async with bare_client(guarded(aqueduct)) as client:
        for path, media_type in {
            "": "text/html; charset=utf-8",
            "status.css": "text/css; charset=utf-8",
            "status.js": "text/javascript; charset=utf-8",
            "numbers.js": "text/javascript; charset=utf-8",
            "snapshot": "application/json",
            "events": "text/event-stream; charset=utf-8",
        }.items():
            answer = await client.get(f"/ops/{path}")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == media_type
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"].split("; ")
            assert POLICY <= {*policy}
            assert not any("unsafe" in part or "*" in part for part in policy)
        assert (await client.get("/ops")).headers["location"] == f"{BASE}/ops/"
        assert "/ops" not in str((await client.get("/openapi.json")).json())


async def test_no_other_file_is_sent() -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)))
    async with bare_client(guarded(aqueduct)) as client:
        for path in ("other.js", ".js", "..%2Fpage.py%00.js", "..%2Fstatic%2Fstatus.js", "static/status.js", "page.py"):
            assert (await client.get(f"/ops/{path}")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({"Host": "a.example", "Origin": "http://a.example"}, True),
        ({"Host": "a.example", "Origin": "https://a.example"}, True),  # TLS ends at the proxy
        ({"Host": "a.example:443", "Origin": "https://a.example"}, True),
        ({"Host": "a.example:8000", "Origin": "http://a.example:8000"}, True),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, True),
        ({"Host": "10.0.0.7:8000", "Sec-Fetch-Site": "same-origin", "Origin": "https://a.example"}, True),  # a proxy
        ({"Host": "a.example", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": "a.example"}, False),
        ({"Host": "a.example", "Origin": "null"}, False),
        ({"Host": "a.example", "Origin": "http://b.example"}, False),
        ({"Host": "a.example", "Origin": "http://a.example:8000"}, False),
        ({"Host": "a.example", "Origin": "http://a.example:x"}, False),
        ({"Host": "a.example", "Origin": "http://a.example.b.example"}, False),
        ({"Host": "a.example", "Origin": "file://a.example"}, False),
        ({"Host": "a.example", "Origin": "http://["}, False),
        ({"Host": "[", "Origin": "http://a.example"}, False),
        ({"Host": "a.example", "Origin": "http://"}, False),
        ({"Host": "", "Origin": "http://"}, False),
        # What a script of another site can set where CORS allows all headers:
        ({"Host": "a.example", "X-Forwarded-Host": "b.example", "Origin": "http://b.example"}, False),
        ({"Host": "a.example", "Forwarded": "host=b.example", "Origin": "http://b.example"}, False),
        # The page http://a.example asks https://a.example, or is on another port, with a Host that a proxy has changed:
        ({"Host": "a.example", "Sec-Fetch-Site": "cross-site", "Origin": "http://a.example"}, False),
        ({"Host": "a.example", "Sec-Fetch-Site": "same-site", "Origin": "https://a.example"}, False),
        ({"Host": "a.example", "Sec-Fetch-Site": "none", "Origin": "https://a.example"}, False),
        ({"Host": "a.example", "Sec-Fetch-Site": "", "Origin": "https://a.example"}, False),
    ],
)
def test_the_origin_of_a_change(headers: dict[str, str], is_allowed: bool) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers | {HEADER: "1"}).items()]
    request = Request({"type": "http", "method": "POST", "headers": raw})
    if is_allowed:
        check_origin(request)
        return
    with pytest.raises(HTTPException) as refused:
        check_origin(request)
    assert refused.value.status_code == 403


async def test_a_change_needs_the_header() -> None:
    aqueduct = Aqueduct(Flow(Each(add_one)))
    async with bare_client(guarded(aqueduct)) as client:
        answer = await client.post("/ops/restart", json=_change(), headers={"Origin": BASE})
        assert answer.status_code == 403
        assert HEADER in answer.json()["detail"]


@pytest.mark.parametrize(("password", "status", "most"), [("wrong", 401, 0), ("right", 413, 5)])
async def test_no_more_of_a_body_is_read_than_a_change_may_have(password: str, status: int, most: int) -> None:
    """And nothing of one whose dependency refuses it."""

    def check(request: Request) -> None:
        if request.headers["authorization"] != "right":
            raise HTTPException(401)

    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield bytes(4096)

    aqueduct = Aqueduct(Flow(Each(add_one)))
    headers = {**ACTION, "Authorization": password, "Content-Type": "application/json"}
    async with bare_client(included(aqueduct, dependencies=[Depends(check)])) as client:
        answer = await client.post("/ops/restart", content=body(), headers=headers)
    assert answer.status_code == status
    assert sent <= most


def test_each_reason_of_a_refusal_has_its_words_on_the_page() -> None:
    script = (files("fastapi_aqueduct.asgi.status") / "static" / "refusal.js").read_text()
    assert set(re.findall(r"^  (\w+): '", script, re.MULTILINE)) == set(REASONS)


def test_replacements_are_checked_where_they_are_declared() -> None:
    flow, other = Flow(FlowStep(Each(add_one), name="one")), Flow(Each(add_one))
    with pytest.raises(ConfigurationError, match="steps of its flows as keys"):
        Aqueduct(flow, replacements={other.steps["step1_Each"]: {"large": Each(add_one)}})
    with pytest.raises(ConfigurationError, match="got 'no handler'"):
        Aqueduct(flow, replacements={flow.steps["one"]: {"large": "no handler"}})  # type: ignore[dict-item]


def _change(**fields: Any) -> dict[str, Any]:
    return {"flow": "adding", "step": "add", **fields}


@pytest.fixture
async def adding() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running application, which handles no signals."""
    flow = forked(FlowStep(Each(add_one), name="add"), name="adding")
    replacements = {flow.steps["add"]: {"whole": Whole(add_one)}}
    aqueduct = Aqueduct(flow, handle_signals=False, replacements=replacements)
    app = guarded(aqueduct)
    app.router.lifespan_context = aqueduct.lifespan
    async with serving(app) as client:
        client.headers.update({HEADER: "1", "Origin": str(client.base_url).rstrip("/")})
        yield client


async def test_changes(adding: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    for path, body, status, text in [
        ("restart", _change(flow="others"), 404, "there is: adding"),
        ("restart", _change(step="subtract"), 404, "no step 'subtract'"),
        ("restart", _change(nprocs=1), 422, "extra_forbidden"),
        ("restart", "no object", 422, "model_type"),
        ("scale", _change(nprocs="1"), 422, "int_type"),
        ("scale", _change(nprocs=0), 422, "can have 1 to"),
        ("scale", _change(nprocs=9999), 422, "can have 1 to"),
        ("replace", _change(handler="os.system"), 422, "it has: whole"),
        ("scale", _change(nprocs=1), 200, "scale to 1 step add of flow adding: done"),
    ]:
        answer = await adding.post(f"/ops/{path}", json=body)
        assert answer.status_code == status, answer.text
        assert text in answer.text
    for path, body, version in [("restart", _change(), 2), ("replace", _change(handler="whole"), 3)]:
        assert (await adding.post(f"/ops/{path}", json=body)).status_code in (200, 202)
        document: dict[str, Any] = {"actions": [{"state": "running"}]}
        while document["actions"][0]["state"] == "running":
            document = (await adding.get("/ops/snapshot")).json()
        assert document["actions"][0]["state"] == "done", document["actions"][0]
        step = document["flows"][0]["steps"][0]
        assert (step["version"], step["replacements"]) == (version, ["whole"])
    assert step["handler"] == "Whole"
    assert "status page: 127.0.0.1 asks for: replace by whole step add of flow adding" in caplog.text


async def test_without_signals_each_response_has_one_event_and_ends(adding: httpx.AsyncClient) -> None:
    for _ in range(2):
        answer = await adding.get("/ops/events")
        (event,) = answer.text.strip().split("\n\n")
        assert json.loads(event.removeprefix("data: "))["status"] == "ready"


async def test_a_change_that_the_server_does_not_wait_for_is_undone_when_it_stops() -> None:
    flow = forked(FlowStep(Each(add_one), name="add"), name="adding")
    aqueduct = Aqueduct(flow, handle_signals=False, admin_is_public=True)
    actions = aqueduct._page._actions
    actions._prompt = 0.0
    app = included(aqueduct)
    async with aqueduct.run(app), bare_client(app) as client:
        answer = await client.post("/ops/restart", json=_change(), headers=ACTION)
        assert answer.status_code == 202
    (record,) = actions.recent()
    assert record["state"] == "failed"
    assert record["text"] == "restart step add of flow adding: cancelled, since the server stops"


async def test_a_pipeline_of_several_processes_shows_its_own_numbers() -> None:
    flow = forked(FlowStep(Each(raise_if_bad), name="check"), name="shared")
    aqueduct = Aqueduct(flow, handle_signals=False, admin_is_public=True)
    app = included(aqueduct)
    with in_a_pipeline(flow):
        async with flow:
            with pytest.raises(ValueError):
                await flow.process(Job(is_bad=True))
            async with bare_client(app) as client:
                step: dict[str, Any] = {"incidents": []}
                while not step["incidents"]:
                    (step,) = (await client.get("/ops/snapshot")).json()["flows"][0]["steps"]
                    await asyncio.sleep(0)
            assert step["incidents"][0]["text"] == "bad"
            assert step["workers"][0]["pid"] == flow.statistics().steps[0].workers[0].pid
            async with flow.steps["check"].canary(Each(raise_if_bad)):
                while flow.statistics().steps[0].trial is None:
                    await asyncio.sleep(0.01)


async def test_jobs_are_counted(tmp_path: Path) -> None:
    flow = forked(FlowStep(Each(add_one), name="add"), name="adding")
    jobs = Jobs(tmp_path / "jobs.db")
    aqueduct = Aqueduct(flow, handle_signals=False, admin_is_public=True, jobs=jobs)
    app = included(aqueduct)
    async with aqueduct.run(app), bare_client(app) as client:
        await (await jobs.submit(Job(number=1)))
        found = (await client.get("/ops/snapshot")).json()["flows"][0]["jobs"]
        assert (found["ended"]["completed"], found["pending"]) == (1, {"queued": 0, "running": 0})
