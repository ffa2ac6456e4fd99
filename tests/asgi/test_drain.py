"""Servers stop in order, at once when told twice, and leave no worker behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI
from starlette.testclient import TestClient

from fastapi_aqueduct import Aqueduct, ConfigurationError, NotRunningError
from fastapi_aqueduct.asgi.loop_signals import LoopSignals
from fastapi_aqueduct.flow import FlowState, FlowStream
from fastapi_aqueduct.testing import client

from ..handlers import Gate
from ..support import DEADLINE, Ends, eventually, forked, outcome, wait_until
from .handlers import Adder, Held, Hold, Tick, Ticks
from .service import SERVERS, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

EXIT_CODES = {"uvicorn": -signal.SIGTERM}
"""What uvicorn makes of SIGTERM when it has no supervisor; the others exit with 0."""

long = partial(pytest.param, marks=pytest.mark.long)
"""One of several servers that differ little here, and take seconds each to start."""

AT_ONCE = 10.0
"""Seconds; whatever is not at once would take 60 here."""


@pytest.mark.parametrize("server", [long(name) if name == "uvicorn-reload" else name for name in SERVERS])
def test_sigterm_answers_what_is_in_flight(tmp_path: Path, server: str) -> None:
    """Then the server ends, and every process with it."""
    with serving(tmp_path, server) as service, Ends(service.processes()) as ends:
        request = service.hold()
        service.process.terminate()
        assert wait_until(lambda: service.probe() != 200, DEADLINE)
        Gate(tmp_path).open()
        assert request.result().json() == "finished"
        assert service.process.wait(DEADLINE) == EXIT_CODES.get(server, 0)
        assert ends.wait(AT_ONCE) == set()


@pytest.mark.parametrize("server", ["uvicorn", long("uvicorn-reload"), long("uvicorn-workers"), long("granian")])
def test_ctrl_c_answers_what_is_in_flight(tmp_path: Path, server: str) -> None:
    """Also where a supervisor passes Ctrl-C, which the terminal sends to every process, on as SIGTERM."""
    with serving(tmp_path, server) as service, Ends(service.processes()) as ends:
        request = service.hold()
        service.interrupt()
        assert wait_until(lambda: service.probe() != 200, DEADLINE)
        Gate(tmp_path).open()
        assert request.result().json() == "finished"
        assert service.process.wait(DEADLINE) in (0, -signal.SIGINT)
        assert ends.wait(AT_ONCE) == set()
        assert "Traceback" not in service.log()


@pytest.mark.parametrize(
    "server",
    ["uvicorn", long("uvicorn-reload"), long("uvicorn-workers"), long("hypercorn-alone"), "granian", long("gunicorn")],
)
def test_requests_are_served_while_the_server_drains(tmp_path: Path, server: str) -> None:
    """The probe says 503 first; Ctrl-C ends the delay, and what is in flight with it.

    Not under hypercorn with processes, which see no signals: their parent tells them through a pipe.
    """
    with serving(tmp_path, server, delay=60) as service, Ends(service.processes()) as ends:
        request = service.hold()
        service.process.terminate()
        assert wait_until(lambda: service.probe() == 503, DEADLINE)
        assert service.probe("/live", DEADLINE) == 200
        Gate(tmp_path, "second").open()
        assert service.hold("second").result().json() == "finished"
        started = time.monotonic()
        service.interrupt()
        service.process.wait(AT_ONCE)
        assert ends.wait(AT_ONCE) == set()
        assert time.monotonic() - started < 2 * AT_ONCE
        assert is_refused(request.result())


def test_the_delay_ends_by_itself(tmp_path: Path) -> None:
    with serving(tmp_path, "uvicorn", delay=1) as service:
        started = time.monotonic()
        service.process.terminate()
        assert wait_until(lambda: service.probe() == 503, DEADLINE)
        assert service.process.wait(DEADLINE) == -signal.SIGTERM
        assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("server", "delay"), [("uvicorn", 0), long("uvicorn", 60), long("hypercorn-alone", 0), long("hypercorn-alone", 60)]
)
def test_a_second_sigterm_ends_at_once(tmp_path: Path, server: str, delay: float) -> None:
    """The request in flight is refused, its worker killed."""
    with serving(tmp_path, server, delay=delay) as service, Ends(service.processes()) as ends:
        request = service.hold()
        service.process.terminate()
        assert wait_until(lambda: service.probe() != 200, DEADLINE)
        service.process.terminate()
        assert service.process.wait(AT_ONCE) == EXIT_CODES.get(server, 0)
        assert ends.wait(AT_ONCE) == set()
        assert is_refused(request.result())
        assert "Traceback" not in service.log()


@pytest.mark.parametrize("server", ["uvicorn", long("uvicorn-workers")])
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, server: str) -> None:
    """Also what the handlers have started."""
    with serving(tmp_path, server, "Brood") as service, Ends(service.processes()) as ends:
        request = service.hold()
        service.interrupt()
        assert wait_until(lambda: service.probe() != 200, DEADLINE)
        service.interrupt()
        service.process.wait(AT_ONCE)
        assert ends.wait(AT_ONCE) == set()
        assert is_refused(request.result())


@pytest.mark.long
def test_a_second_ctrl_c_ends_the_work_under_granian_at_once(tmp_path: Path) -> None:
    """Its own processes do not always end on it, with any application; ours do."""
    with serving(tmp_path, "granian") as service, Ends(service.workers()) as ends:
        service.hold()
        service.interrupt()
        assert wait_until(lambda: service.probe() != 200, DEADLINE)
        service.interrupt()
        assert ends.wait(AT_ONCE) == set()


@pytest.mark.parametrize("handler", ["Hold", "Spin", "Brood"])
def test_no_worker_outlives_a_killed_server(tmp_path: Path, handler: str) -> None:
    """Neither an idle one nor one that is busy in Python: one is busy here, the other idle."""
    with serving(tmp_path, "uvicorn", handler) as service, Ends(service.processes()) as ends:
        service.hold()
        service.process.kill()
        assert ends.wait(AT_ONCE) == set()


@pytest.mark.long
def test_no_worker_outlives_a_killed_process_of_a_server_with_several(tmp_path: Path) -> None:
    """Its supervisor, which lives, starts another."""
    with serving(tmp_path, "uvicorn-workers") as service:
        assert wait_until(lambda: len(service.processes()) == 7, DEADLINE)
        victim = next(pid for pid in service.processes() if service.processes(pid))
        with Ends(service.processes(victim)) as ends:
            os.kill(victim, signal.SIGKILL)
            assert ends.wait(AT_ONCE) == set()
        assert wait_until(lambda: len(service.processes()) == 7 and service.probe() == 200, DEADLINE)


def is_refused(result: object) -> bool:
    """Tell whether a request was answered with 503, or its connection closed."""
    return getattr(result, "status_code", 503) == 503


class Handler:
    """A server's handler of SIGTERM."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.calls += 1


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


async def test_the_handler_of_the_server_is_called_and_given_back(handler: Handler) -> None:
    """Every time the application runs anew."""
    flow = forked(Adder())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    for _ in range(2):
        handler.calls = 0
        async with client(app) as http:
            assert (await http.get("/ready")).status_code == 200
            signal.raise_signal(signal.SIGTERM)
            await eventually(lambda: handler.calls)
            response = await http.get("/ready")
            assert (response.status_code, response.json()["status"]) == (503, "draining")
        assert signal.getsignal(signal.SIGTERM) is handler


async def test_a_handler_that_came_later_stays(handler: Handler) -> None:
    """It calls ours, which still stands before that of the server."""
    flow = forked(Adder())
    async with client(FastAPI(lifespan=Aqueduct(flow).lifespan)):
        late = Handler()
        signal.signal(signal.SIGTERM, late)
    assert signal.getsignal(signal.SIGTERM) is late


async def hold_signals() -> None:
    """Check that a handler of the event loop gets a held signal when it is sent, and others at once."""
    loop = asyncio.get_running_loop()
    calls: list[signal.Signals] = []
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        loop.add_signal_handler(signum, calls.append, signum)
    signals = LoopSignals(loop, {signal.SIGTERM})
    signals.install()
    own = signal.signal(signal.SIGTERM, lambda signum, frame: None)  # uvloop's also notes the signal
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGUSR1)
    await eventually(lambda: calls)
    signals.send(signal.SIGTERM)
    await eventually(lambda: len(calls) == 2)
    signal.signal(signal.SIGTERM, own)
    signals.restore()
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: len(calls) == 3)
    assert calls == [signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM]
    for signum in set(calls):
        loop.remove_signal_handler(signum)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_signals_for_handlers_of_the_event_loop_are_held(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(hold_signals())


async def test_without_handlers_of_the_event_loop_nothing_is_held() -> None:
    signals = LoopSignals(asyncio.get_running_loop(), {signal.SIGTERM})
    signals.install()
    assert signal.set_wakeup_fd(-1) == -1
    signals.restore()


async def test_without_a_handler_nothing_is_touched() -> None:
    """SIGTERM ends a process at once that has never asked for anything else."""
    async with client(FastAPI(lifespan=Aqueduct(forked(Adder()), drain_delay=9).lifespan)):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_thread_nothing_is_touched(handler: Handler) -> None:
    """Only the main thread may handle signals."""
    with TestClient(FastAPI(lifespan=Aqueduct(forked(Adder())).lifespan)):
        assert signal.getsignal(signal.SIGTERM) is handler


async def items_before(stream: FlowStream[Any]) -> BaseException | None:
    """Read a stream and return the error that ends it."""
    try:
        async for _ in stream:
            pass
    except Exception as exc:
        return exc
    return None


@pytest.mark.parametrize("delay", [0, 0.3])
async def test_streams_end_after_the_stop_timeout(tmp_path: Path, handler: Handler, delay: float) -> None:
    """It begins with the server's own shutdown, after the delay."""
    flow = forked(Tick(), stop_timeout=0.3)
    async with client(FastAPI(lifespan=Aqueduct(flow, drain_delay=delay).lifespan)):
        stream = flow.stream(Ticks(tmp_path))
        await anext(stream)
        begun = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(await items_before(stream), NotRunningError)
        assert time.monotonic() - begun >= delay + 0.3
        assert handler.calls == 1
        await flow.process(Ticks(tmp_path, count=3))  # tasks without streams go on


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_streams_end_at_once(tmp_path: Path, handler: Handler, signum: signal.Signals) -> None:
    """On Ctrl-C, and on a second SIGTERM; also those of a flow that is not stopped with the application."""
    before = signal.signal(signal.SIGINT, handler)
    flow = forked(Tick(), stop_timeout=60)
    try:
        async with asyncio.timeout(AT_ONCE), flow, client(FastAPI(lifespan=Aqueduct(flow, drain_delay=60).lifespan)):
            stream = flow.stream(Ticks(tmp_path))
            await anext(stream)
            for _ in range(1 if signum == signal.SIGINT else 2):
                signal.raise_signal(signum)
            assert isinstance(await items_before(stream), NotRunningError)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_second_signal_while_the_lifespan_ends(tmp_path: Path, handler: Handler) -> None:
    """It is not waited for what is still in flight."""
    flow = forked(Hold(), stop_timeout=60)
    async with asyncio.timeout(AT_ONCE):
        async with client(FastAPI(lifespan=Aqueduct(flow).lifespan)):
            held = asyncio.create_task(flow.process(Held(tmp_path), 60))
            await eventually(Gate(tmp_path).is_entered)
            for _ in range(2):
                asyncio.get_running_loop().call_later(0.1, signal.raise_signal, signal.SIGTERM)
    assert isinstance(await outcome(held), NotRunningError)
    assert flow.state is FlowState.STOPPED


async def test_a_lifespan_that_is_cancelled_waits_for_nothing(tmp_path: Path) -> None:
    """As uvicorn does on a second Ctrl-C."""
    flow = forked(Hold(), stop_timeout=60)
    is_open = asyncio.Event()

    async def run() -> None:
        async with Aqueduct(flow).run(FastAPI()):
            is_open.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(AT_ONCE):
        lifespan = asyncio.create_task(run())
        await is_open.wait()
        held = asyncio.create_task(flow.process(Held(tmp_path), 60))
        await eventually(Gate(tmp_path).is_entered)
        lifespan.cancel()
        await asyncio.wait([lifespan])
    assert isinstance(await outcome(held), NotRunningError)
    assert flow.state is FlowState.STOPPED


async def test_a_cancelled_stop_stops(tmp_path: Path) -> None:
    """At once, and the flow can be started again."""
    flow = forked(Hold(), stop_timeout=60)
    async with asyncio.timeout(AT_ONCE):
        await flow.start_async()
        held = asyncio.create_task(flow.process(Held(tmp_path), 60))
        await eventually(Gate(tmp_path).is_entered)
        stop = asyncio.create_task(flow.stop())
        await eventually(lambda: flow.state is FlowState.STOPPING)
        stop.cancel()
        await asyncio.wait([stop])
        assert isinstance(await outcome(held), NotRunningError)
        assert flow.state is FlowState.STOPPED
        async with flow:
            assert flow.is_running


def test_a_delay_below_zero_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="drain_delay"):
        Aqueduct(forked(Adder()), drain_delay=-1)
