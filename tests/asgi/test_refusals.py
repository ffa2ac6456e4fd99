"""Refused requests: what an operator sees in the log, and what the statistics count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from pathlib import Path

import httpx
import pytest

from fastapi_aqueduct import (
    ArenaFull,
    FlowStep,
    ForkedError,
    NotRunningError,
    Overloaded,
    QueueFull,
    TaskTooLarge,
)
from fastapi_aqueduct.asgi.refusal_log import RefusalLog
from fastapi_aqueduct.exceptions import reason_of
from fastapi_aqueduct.flow import ArrivalCap

from ..handlers import Each, Gate, Job
from ..handlers import enter_gate_if_any as enter
from ..support import DEADLINE, busy, eventually, forked, running, wait_until, write_script
from .handlers import Add
from .service import Request, launched
from .support import serving, total_application

SOURCE = """
    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint
    from tests.asgi.handlers import Held, HeldPicture, Hold

    flow = Flow(FlowStep(Hold()), queue_size=1, name="ocr")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/hold")
    @flow_endpoint(flow, timeout_sec=60)
    async def hold(task: Held) -> str:
        return "finished"

    @app.get("/brief/{number}")
    @flow_endpoint(flow, timeout_sec=0.01)
    async def brief(task: Held, number: int) -> str:
        return "finished"

    @app.post("/small")
    @flow_endpoint(flow, max_body_size=2)
    async def small(task: HeldPicture) -> str:
        return "finished"

    @app.get("/queued")
    def queued() -> int:
        return flow.statistics().steps[0].queued

    @app.get("/refusals")
    def refusals() -> dict[str, int]:
        return flow.statistics().refusals
"""


def test_a_plain_uvicorn_shows_each_reason_once_and_the_statistics_count_all(tmp_path: Path) -> None:
    """uvicorn configures its own loggers only, and what it prints comes without a handler for ours."""
    write_script(tmp_path, SOURCE)
    gate = f"gate={tmp_path}"
    with (
        launched(tmp_path, ["uvicorn", "main:app", "--port={port}"]) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=DEADLINE) as http,
    ):

        def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return http.get("/ready").status_code == 200
            return False

        def log() -> str:
            return (tmp_path / "log").read_text()

        def leave() -> bool:
            with pytest.raises(httpx.ReadTimeout):
                http.get(f"/hold?{gate}", timeout=httpx.Timeout(DEADLINE, read=0.1))
            return " 499: " in log()

        assert wait_until(is_ready, DEADLINE), log()
        assert [http.get(f"/brief/{number}?{gate}").status_code for number in range(3)] == [504] * 3
        assert wait_until(leave, DEADLINE), log()
        held: list[Request] = []
        while not wait_until(lambda: http.get("/queued").json() == 1, 0.2):
            held.append(Request(f"{http.base_url}/hold?{gate}"))
            assert len(held) < 20
        assert [http.get(f"/hold?{gate}").status_code for _ in range(9)] == [503] * 9
        assert [http.post(f"/small?{gate}", content=b"abc").status_code for _ in range(2)] == [413] * 2
        counts = http.get("/refusals").json()
        Gate(tmp_path).open()
        assert {request.result().status_code for request in held} <= {200, 503}
    assert counts.pop("queue_full") >= 9
    assert counts == {"body_too_large": 2}
    # On a slow machine the numbers of further refusals have come, too.
    lines = [line for line in log().splitlines() if not line.startswith("INFO:") and " more in " not in line]
    assert [line.split(": ")[:2] for line in lines] == [
        ["GET /brief/0", "504"],
        ["GET /hold", "499"],
        ["GET /hold", "503"],
        ["POST /small", "413"],
    ]


def test_the_first_refusal_is_logged_at_once_and_then_how_many_more_there_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 100.0
    refusals = RefusalLog(interval=10.0, now=lambda: now)

    def note(at: float, reason: str = "queue_full", route: str = "GET /a") -> list[str]:
        nonlocal now
        now = at
        caplog.clear()
        refusals.note(route, reason, f"{route}: {reason} at {at:g}")
        return [record.message for record in caplog.records]

    assert note(100) == ["GET /a: queue_full at 100"]
    assert note(101) == note(109.9) == []
    assert note(105, "arena_full") == ["GET /a: arena_full at 105"]
    assert note(106, route="GET /b") == ["GET /b: queue_full at 106"]
    assert note(110) == ["GET /a: 2 more in 10 s (queue_full), at last: GET /a: queue_full at 109.9"]
    assert note(119) == []
    assert note(120) == ["GET /a: 2 more in 10 s (queue_full), at last: GET /a: queue_full at 119"]
    assert note(150) == [
        "GET /a: 1 more in 10 s (queue_full), at last: GET /a: queue_full at 120",
    ]
    now = 170
    caplog.clear()
    refusals.settle()
    assert [record.message for record in caplog.records] == [
        "GET /a: 1 more in 10 s (queue_full), at last: GET /a: queue_full at 150"
    ]
    assert note(200) == ["GET /a: queue_full at 200"]
    assert note(201) == []
    assert note(202, "arena_full") == ["GET /a: arena_full at 202"]
    now = 204
    caplog.clear()
    refusals.close()
    assert [record.message for record in caplog.records] == [
        "GET /a: 1 more in 4 s (queue_full), at last: GET /a: queue_full at 201"
    ]
    assert note(205) == ["GET /a: queue_full at 205"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_the_last_number_is_logged_without_another_refusal(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refusals = RefusalLog(interval=0.02, now=lambda: now)
    for number in range(3):
        refusals.note("GET /a", "queue_full", f"line {number}")
    now = 101.0
    await eventually(lambda: len(caplog.records) == 2)
    assert [record.message for record in caplog.records] == [
        "line 0",
        "GET /a: 2 more in 0.02 s (queue_full), at last: line 2",
    ]


def test_a_timer_of_an_event_loop_that_has_ended_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refusals = RefusalLog(interval=0.02, now=lambda: now)

    async def refuse() -> None:
        refusals.note("GET /a", "queue_full", "line")

    async def refuse_and_wait() -> None:
        nonlocal now
        await refuse()
        now = 101.0
        await eventually(lambda: "more in" in caplog.text)

    asyncio.run(refuse())
    asyncio.run(refuse_and_wait())


async def test_an_application_that_stops_logs_the_last_number_of_its_own_refusals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def messages() -> list[str]:
        return [record.message for record in caplog.records if record.levelno == logging.WARNING]

    flow = forked(Add())  # the first one runs it
    refusing, other = (total_application(flow, max_body_size=2) for _ in range(2))
    line = "POST /total: 413: The body may have at most 2 bytes."
    async with serving(refusing) as client:
        async with serving(other) as client_of_other:
            for app in (refusing, other):
                app.state.aqueduct.refusal_log = RefusalLog(interval=3600.0)  # longer than the slowest test
            for each in (client, client, client, client_of_other):
                assert (await each.post("/total", content=b"abc")).status_code == 413
            assert messages() == [line, line]
        assert messages() == [line, line]
    assert len(messages()) == 3
    assert re.fullmatch(rf"POST /total: 2 more in \S+ s \(body_too_large\), at last: {line}", messages()[-1])


def test_reasons() -> None:
    assert [reason_of(kind("")) for kind in (QueueFull, NotRunningError, ForkedError, ArenaFull)] == [
        "queue_full",
        "not_running",
        "forked",
        "arena_full",
    ]


async def test_what_the_engine_refuses_is_counted_once(tmp_path: Path) -> None:
    flow = forked(FlowStep(Each(enter)), queue_size=1, memory_limit=1 << 20)
    with pytest.raises(NotRunningError):
        await flow.process(Job())
    assert flow.statistics().refusals == {"not_running": 1}
    async with running(flow):
        gate = Gate(tmp_path)
        async with busy(flow, gate):
            waiting = asyncio.create_task(flow.process(Job(gate=gate), 60))
            await eventually(lambda: flow.statistics().steps[0].queued == 1)
            with pytest.raises(QueueFull):
                flow.check_entry()
            gate.open()
            await waiting
        with pytest.raises(TaskTooLarge):
            await flow.process(Job(payload=bytes(2 << 20)))
        with pytest.raises(Overloaded):
            flow.expect(10, 10, 1.0, ArrivalCap(bodies=0))
        kept = Job(payload=bytes(600_000))
        kept.share_value("payload")
        with pytest.raises(ArenaFull):
            await flow.process(Job(payload=bytes(600_000)), 0.05)
        del kept
        assert flow.statistics().refusals == {
            "not_running": 1,
            "queue_full": 1,
            "task_too_large": 1,
            "overloaded": 1,
            "arena_full": 1,
        }
    assert flow.statistics().refusals["arena_full"] == 1
