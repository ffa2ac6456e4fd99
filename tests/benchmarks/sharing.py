"""One pipeline for several API processes beside a pipeline in each of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .client import Client, Request
from .processes import MIB, Footprint, tree
from .report import Promise, Report, Series
from .server import API, PIPELINE, Server
from .subject import DEADLINE, Subject

ROUNDS = 7
CONNECTIONS = 16
SERVERS = {"own": "ours_fastapi", "host": "ours_shared"}
PROCESSES = 4
EVEN = 16
"""Callers of each of two processes."""

LATENCY = "p50 over one connection, ms"
RATE = f"requests/s, {CONNECTIONS} connections"
TIME = f"processor time of a request, us, {CONNECTIONS} connections"


def measure() -> Report:
    """A request that costs nothing, over one connection and over several."""
    latency: dict[str, list[float]] = {name: [] for name in SERVERS}
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        body = Path(directory, "body.json")
        body.write_text('{"value": 7}')
        request = Request({"value": 7}, body)
        servers = {name: stack.enter_context(Server(module, "noop")) for name, module in SERVERS.items()}
        for number in range(ROUNDS + 1):
            for name, server in servers.items():
                with server.awake():
                    server.wait(request)
                    alone = Client(1, 2).run(server.port, request)
                    before = server.processor_times()
                    crowd = Client(CONNECTIONS, 2).run(server.port, request)
                    spent = {kind: seconds - before[kind] for kind, seconds in server.processor_times().items()}
                    server.wait(request)
                if number:  # the first round warms up
                    latency[name].append(alone.p50 * 1000)
                    rates[name].append(crowd.rate)
                    for kind, seconds in spent.items():
                        times.setdefault(f"{name}: {kind}", []).append(seconds / crowd.requests * 1e6)
    p50 = {name: Series(name, values, 2, LATENCY) for name, values in latency.items()}
    cost = {name: Series(name, values, 0, TIME) for name, values in times.items()}
    share = cost[f"host: {PIPELINE}"].over(cost[f"host: {API}"], f"{PIPELINE} / {API}")
    return Report(
        title="sharing: a small JSON body there and back, the pipeline in the API process or in a process of its own",
        notes=["one worker that does nothing", "processor time: of the processes of the server, without the client's"],
        rows=[
            *p50.values(),
            *(Series(name, values, 0, RATE) for name, values in rates.items()),
            *cost.values(),
        ],
        promises=[
            Promise(p50["host"].minus(p50["own"], "p50: host - own, ms"), 0.25),
            Promise(share, 0.25),
        ],
    )


def measure_memory() -> Report:
    """A server of several processes with a model."""
    starts: dict[str, list[float]] = {name: [] for name in SERVERS}
    memory: dict[str, list[float]] = {name: [] for name in SERVERS}
    for _ in range(3):
        for name in SERVERS:
            seconds, used = _serve_model(name)
            starts[name].append(seconds)
            memory[name].append(used / MIB)
    start = {name: Series(name, values, 1, "until all processes have answered, s") for name, values in starts.items()}
    size = {name: Series(name, values, 0, "memory of all processes, MiB") for name, values in memory.items()}
    return Report(
        title=f"sharing-memory: uvicorn with {PROCESSES} workers, and a model of 300 MB in a step with one process",
        notes=["PSS after the start, shared memory counted once"],
        rows=[*size.values(), *start.values()],
        promises=[Promise(size["host"].over(size["own"], "memory: host / own"), 0.5)],
    )


def measure_batches() -> Report:
    """Callers in two processes that go on when they have their answers."""
    sizes: dict[str, list[float]] = {name: [] for name in SERVERS}
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    for _ in range(ROUNDS):
        for name in SERVERS:
            answers = _call_evenly(name)
            rates[name].append(sum(answer["rate"] for answer in answers))
            sizes[name].append(sum(answer["size"] for answer in answers) / len(answers))
    size = {name: Series(name, values, 1, "mean size of a task's batch") for name, values in sizes.items()}
    rate = {name: Series(name, values, 0, "tasks/s") for name, values in rates.items()}
    return Report(
        title=f"sharing-batches: {EVEN} callers in each of two processes, two workers in all, batches of 16",
        notes=["a call takes 10 ms and 0.5 ms more for each task; it sleeps"],
        rows=[*size.values(), *rate.values()],
        promises=[Promise(size["host"].over(size["own"], "mean size: host / own"), 0.9, is_minimum=True)],
    )


def _serve_model(place: str) -> tuple[float, int]:
    port = _free_port()
    app = f"{__package__}.subjects.shared_model:app"
    options = "--workers", PROCESSES, "--port", port, "--log-level", "warning", "--timeout-worker-healthcheck", 60
    with tempfile.TemporaryFile("w+") as log, _place(place):
        started = time.monotonic()
        with Subject("-m", "uvicorn", app, *options, log=log) as subject:
            _wait_for_all(subject, port)
            return time.monotonic() - started, Footprint(tree(subject.pid)).total


def _wait_for_all(subject: Subject, port: int) -> None:
    """Wait until each process has answered: each is asked by chance, so a few times as often as there are some."""
    deadline, answers = time.monotonic() + DEADLINE, 0
    while answers < 10 * PROCESSES:
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
                connection.request("GET", "/answer")
                answers += connection.getresponse().read() == b"1"
        except OSError as exc:
            if time.monotonic() > deadline or not subject.is_alive:
                raise RuntimeError(f"no answer: {exc}\n{subject.read_log()}") from exc
            time.sleep(0.01)


def _call_evenly(place: str) -> list[Any]:
    nprocs = 1 if place == "own" else 2
    command = [sys.executable, "-m", f"{__package__}.subjects.even_callers", str(nprocs), str(EVEN)]
    with _place(place), contextlib.ExitStack() as stack:
        callers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        for caller in callers:
            _read(caller.stdout)
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        return [_read(caller.stdout) for caller in callers]


def _read(stdout: IO[str] | None) -> Any:
    assert stdout is not None
    return json.loads(stdout.readline())


@contextlib.contextmanager
def _place(name: str) -> Iterator[None]:
    os.environ["AQUEDUCT_PIPELINE"] = name
    try:
        yield
    finally:
        del os.environ["AQUEDUCT_PIPELINE"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
