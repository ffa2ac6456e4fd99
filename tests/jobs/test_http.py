"""Jobs over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from prometheus_client import REGISTRY

from fastapi_aqueduct import (
    Aqueduct,
    BaseTaskHandler,
    ConfigurationError,
    Flow,
    InvalidArgument,
    Job,
    Jobs,
    JobStatus,
)
from fastapi_aqueduct.asgi.jobs.fingerprint import fingerprint_of
from fastapi_aqueduct.testing import client, inline

from ..support import eventually
from .handlers import Add, Counter, Scan, Work, Worker


async def user(x_user: Annotated[str, Header()] = "") -> str:
    if not x_user:
        raise HTTPException(401)
    return x_user


@asynccontextmanager
async def serving(
    path: Path, handler: BaseTaskHandler | None = None, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Jobs]]:
    """Run an application with two endpoints of jobs, whose handler works in a thread."""
    flow = Flow(handler or Add(), stop_timeout=0.0)
    jobs = Jobs(path / "jobs.db", **options)
    app = FastAPI(lifespan=Aqueduct(flow, jobs=jobs).lifespan)

    @app.post("/scans", status_code=202)
    @jobs.endpoint(flow, max_body_size=1 << 20)
    async def scan(job: Job[Scan]) -> JobStatus:
        return job.status

    @app.post("/works", status_code=202)
    @jobs.endpoint(flow, result=lambda work: {"text": work.done})
    def work(job: Job[Work]) -> JobStatus:
        return job.status

    app.include_router(jobs.router, prefix="/jobs")
    with inline(flow):
        async with client(app) as http:
            yield http, jobs  # type: ignore[misc]


async def test_a_job_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as (http, _):
        answer = await http.post("/scans?factor=2", content=b"\1" * 50_000)
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "1"
        location = answer.headers["location"]
        assert location == f"/jobs/{answer.json()['id']}"
        status = (await http.get(location, params={"wait": 20})).json()
        assert status["state"] == "completed"
        assert (await http.get(location + "/result")).json() == {"total": 100_000}
        assert (await http.delete(location)).status_code == 204
        assert (await http.get(location)).status_code == 404
        assert (await http.get(location + "/result")).status_code == 404
        assert (await http.delete(location)).status_code == 404
        assert (await http.post("/scans", content=bytes(2 << 20))).status_code == 413
        assert (await http.post("/scans?factor=x", content=b"\1")).status_code == 422
        assert not list((tmp_path / "jobs.db-files").glob("*.task"))


async def test_the_schema(tmp_path: Path) -> None:
    async with serving(tmp_path, owner=Depends(user)) as (http, _):
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert {item["name"] for item in paths["/scans"]["post"]["parameters"]} == {
            "factor",
            "Idempotency-Key",
            "x-user",
        }
        assert "application/octet-stream" in paths["/scans"]["post"]["requestBody"]["content"]
        usual = {"200", "400", "408", "413", "415", "422", "503", "504"}
        assert set(paths["/scans"]["post"]["responses"]) == usual - {"200"} | {"202", "409", "507"}
        assert set(paths["/jobs/{job_id}"]) == {"get", "delete"}
        assert set(paths["/jobs/{job_id}"]["get"]["responses"]) == {"200", "404", "422", "503"}
        assert {item["name"] for item in paths["/jobs/{job_id}"]["get"]["parameters"]} == {
            "job_id",
            "wait",
            "last-event-id",
            "x-user",
        }


async def test_events(tmp_path: Path) -> None:
    """Progress and items, from the beginning or from the last item that the client knows."""
    async with serving(tmp_path, Counter()) as (http, _):
        location = (await http.post("/works?name=a")).headers["location"]
        text = (await http.get(location, headers={"accept": "text/event-stream"})).text
        events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in text.strip().split("\n\n")]
        items = [event for event in events if event["event"] == "item"]
        assert [(event["id"], json.loads(event["data"])["number"]) for event in items] == [("1", 0), ("2", 1), ("3", 2)]
        last = json.loads(events[-1]["data"])
        assert last["state"] == "completed"
        assert last["progress"] == {"done": 3, "of": 3}
        known = {"accept": "text/event-stream", "last-event-id": "2"}
        assert (await http.get(location, headers=known)).text.count("event: item") == 1
        assert (await http.get(location + "/result")).json() == {"text": "counted"}
        missing = await http.get("/jobs/" + "0" * 32, headers={"accept": "text/event-stream"})
        assert missing.status_code == 404


async def test_waiting_and_ends(tmp_path: Path) -> None:
    worker = Worker(is_open=False)
    async with serving(tmp_path, worker, max_pending=2) as (http, jobs):
        first = (await http.post("/works?name=bad")).headers["location"]
        await eventually(lambda: worker.begun)
        second = (await http.post("/works?name=b")).headers["location"]
        status = await http.get(second, params={"wait": 0.01})
        assert (status.json()["state"], status.json()["position"]) == ("queued", 0)
        assert "retry-after" in status.headers
        assert (await http.get(second + "/result")).status_code == 409
        full = await http.post("/works?name=c")
        assert full.status_code == 503
        assert "retry-after" in full.headers
        assert (await http.delete(second)).status_code == 204
        assert (await http.get(second)).json()["state"] == "cancelled"
        assert (await http.get(second + "/result")).status_code == 409
        worker.gate.set()
        failed = (await http.get(first, params={"wait": 20})).json()
        assert (failed["state"], failed["error"]) == ("failed", "ValueError: bad work")
        assert (await http.get(first + "/result")).json() == {"detail": "The job has failed."}
        await jobs._store._database.run(lambda found: found.execute("PRAGMA max_page_count=1"))
        refused = [await http.post(f"/works?name=c&payload={'x' * 10_000}") for _ in range(50)]
        assert {answer.status_code for answer in refused[-5:]} <= {503, 507}
        assert 507 in {answer.status_code for answer in refused}


async def test_idempotency(tmp_path: Path) -> None:
    """The same key gets the same job, whatever form the request has; another body is refused."""
    async with serving(tmp_path) as (http, _):
        key = {"idempotency-key": "k"}
        first = (await http.post("/scans", content=b"\1" * 50_000, headers=key)).json()["id"]
        again = await http.post("/scans", files={"image": b"\1" * 50_000}, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, first)
        assert (await http.post("/scans", content=b"\2" * 50_000, headers=key)).status_code == 409
        assert (await http.post("/scans?factor=2", content=b"\1" * 50_000, headers=key)).status_code == 409
        assert (await http.post("/scans", content=b"\1" * 50_000)).json()["id"] != first
        assert (await http.post("/scans", content=b"\1", headers={"idempotency-key": "k" * 300})).status_code == 422
        at_once = await asyncio.gather(
            *(http.post("/scans", content=b"\1\2", headers={"idempotency-key": "other"}) for _ in range(5))
        )
        assert len({answer.json()["id"] for answer in at_once}) == 1


async def test_owners(tmp_path: Path) -> None:
    """Others see no job, and their keys are their own."""
    async with serving(tmp_path, owner=Depends(user)) as (http, _):
        ann, bob = {"x-user": "ann", "idempotency-key": "k"}, {"x-user": "bob", "idempotency-key": "k"}
        assert (await http.post("/scans", content=b"\1")).status_code == 401
        location = (await http.post("/scans", content=b"\1", headers=ann)).headers["location"]
        assert (await http.post("/scans", content=b"\2", headers=bob)).headers["location"] != location
        assert (await http.get(location, headers=ann, params={"wait": 20})).json()["state"] == "completed"
        for path in ("", "/result"):
            assert (await http.get(location + path)).status_code == 401
            assert (await http.get(location + path, headers=bob)).status_code == 404
        assert (await http.get(location, headers={**bob, "accept": "text/event-stream"})).status_code == 404
        assert (await http.delete(location, headers=bob)).status_code == 404
        assert (await http.get(location + "/result", headers=ann)).json() == {"total": 1}


async def test_an_owner_that_is_no_name(tmp_path: Path) -> None:
    """The text of an object may differ from request to request."""
    async with serving(tmp_path, owner=Depends(object)) as (http, _):
        with pytest.raises(InvalidArgument, match="id or the name of the client"):
            await http.post("/scans", content=b"\1")


async def test_a_flow_that_is_busy_accepts_jobs(tmp_path: Path) -> None:
    """Where a request for an answer is refused, a job waits."""
    worker = Worker(is_open=False)
    async with serving(tmp_path, worker, max_running=1) as (http, _):
        answers = [await http.post(f"/works?name={name}") for name in "abc"]
        assert [answer.status_code for answer in answers] == [202] * 3
        worker.gate.set()
        for answer in answers:
            assert (await http.get(answer.headers["location"], params={"wait": 20})).json()["state"] == "completed"
        assert worker.begun == ["a", "b", "c"]


async def test_jobs_that_nobody_runs(tmp_path: Path) -> None:
    """What was not given to `Aqueduct` is found at the start, by its endpoints and by its routes."""
    flow = Flow(Add())
    jobs = Jobs(tmp_path / "jobs.db")
    submits, tells = FastAPI(), FastAPI()

    @submits.post("/scans", status_code=202)
    @jobs.endpoint(flow)
    async def scan(job: Job[Scan]) -> JobStatus:
        return job.status

    tells.include_router(jobs.router, prefix="/jobs")
    for app, place in ((submits, "scan at /scans"), (tells, "read_job at /jobs/{job_id}")):
        with pytest.raises(ConfigurationError, match=f"{place}: its jobs were not given to Aqueduct"):
            async with Aqueduct(flow).run(app):
                raise AssertionError


async def test_metrics(tmp_path: Path) -> None:
    worker = Worker(is_open=False)
    async with serving(tmp_path, worker) as (http, _):
        running = (await http.post("/works?name=a")).headers["location"]
        await eventually(lambda: worker.begun)
        queued = (await http.post("/works?name=b")).headers["location"]
        assert REGISTRY.get_sample_value("aqueduct_jobs", {"flow": "flow", "state": "running"}) == 1
        assert REGISTRY.get_sample_value("aqueduct_jobs", {"flow": "flow", "state": "queued"}) == 1
        oldest = REGISTRY.get_sample_value("aqueduct_oldest_job_seconds", {"flow": "flow"})
        assert oldest is not None and 0 < oldest
        await http.delete(queued)
        await http.delete(queued)
        worker.gate.set()
        await http.get(running, params={"wait": 20})
        for outcome, count in (("completed", 1), ("failed", 0), ("cancelled", 1)):
            labels = {"flow": "flow", "outcome": outcome}
            assert REGISTRY.get_sample_value("aqueduct_jobs_ended_total", labels) == count
        assert REGISTRY.get_sample_value("aqueduct_oldest_job_seconds", {"flow": "flow"}) == 0
    assert REGISTRY.get_sample_value("aqueduct_oldest_job_seconds", {"flow": "flow"}) is None


def test_a_fingerprint_of_sets() -> None:
    """Equal sets may have another order, above all in another process."""
    found = [fingerprint_of(Work("a"), frozenset(), {"payload": items}) for items in ({0, 8}, {8, 0}, {8, 1})]
    assert found[0] == found[1] != found[2]


def test_declarations(tmp_path: Path) -> None:
    """What cannot work is refused where it is written."""
    flow = Flow(Add())
    jobs = Jobs(tmp_path / "jobs.db")
    with pytest.raises(InvalidArgument, match="exactly one parameter must be a job"):

        @jobs.endpoint(flow)
        async def no_job(task: Scan) -> None: ...

    with pytest.raises(InvalidArgument, match="Job of no task"):

        @jobs.endpoint(flow)
        async def no_task(job: Job) -> None: ...  # type: ignore[type-arg]

    with pytest.raises(ConfigurationError, match=r"owner=Depends\(...\)"):
        Jobs(tmp_path / "jobs.db", owner=user)
    with pytest.raises(ConfigurationError, match="max_pending > 0"):
        Jobs(tmp_path / "jobs.db", max_pending=0)
    with pytest.raises(ConfigurationError, match="results must expire"):
        Jobs(tmp_path / "jobs.db", keep_for=float("inf"))
    with pytest.raises(ConfigurationError, match="put @jobs.endpoint"):

        @FastAPI().post("/")
        async def plain(job: Job[Scan]) -> None: ...

    assert not list(tmp_path.iterdir())
