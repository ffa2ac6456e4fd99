"""A model on another node of a Ray cluster: behind a step of ours, and behind Ray Serve."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..placement.nodes import Cluster
from .client import Client, Request
from .processes import MIB, processor_time, tree
from .report import Promise, Report, Series
from .server import Server
from .servers.work import ACTOR_BATCH_SIZE, PAGE

ROUNDS = 5
SECONDS = 2
"""Of one load."""

IDLE = 1.0
"""Seconds in which the cluster is watched without a load."""

START_TIMEOUT = 300.0
"""Seconds in which the processes of Ray must be there."""

CONNECTIONS = {"noop": 16, "upload": 8}
NAMES = {"noop": "small JSON", "upload": "1 MiB"}
LOCAL, ACTOR = "uvicorn, local worker", "uvicorn, RayActor"
PLAIN, INSIDE = "Ray Serve, serve.batch", "ours in Ray Serve"


@dataclass(frozen=True)
class Entrant:
    """A service that is measured.

    Attributes:
        server: The process that serves it, or has deployed it.
        path: Of the URL.
    """

    server: Server
    path: str


def measure() -> Report:
    """Load the services in turns, all of which live in the same cluster."""
    p50: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster()
        stack.callback(cluster.stop)
        cluster.start()
        os.environ["RAY_ADDRESS"] = cluster.address
        stack.callback(os.environ.pop, "RAY_ADDRESS")
        entrants = _entrants(stack)
        servers = {entrant.server for entrant in entrants.values()}
        for number in range(ROUNDS + 1):
            for (name, body), entrant in entrants.items():
                request = _request(directory, body, entrant.path)
                entrant.server.wait(request, START_TIMEOUT)
                alone = Client(1, SECONDS).run(entrant.server.port, request)
                started, before = time.monotonic(), _spent(cluster, servers)
                time.sleep(IDLE)
                idle = (_spent(cluster, servers) - before) / (time.monotonic() - started)
                started, before = time.monotonic(), _spent(cluster, servers)
                crowd = Client(CONNECTIONS[body], SECONDS).run(entrant.server.port, request)
                spent = _spent(cluster, servers) - before - idle * (time.monotonic() - started)
                if number:  # the first round warms up
                    title = f"{name}: {NAMES[body]}"
                    p50.setdefault(title, []).append(alone.p50 * 1000)
                    rates.setdefault(title, []).append(crowd.rate)
                    times.setdefault(title, []).append(spent / crowd.requests * 1e6)
    return _report(p50, rates, times)


def _report(p50: dict[str, list[float]], rates: dict[str, list[float]], times: dict[str, list[float]]) -> Report:
    rate = {title: Series(title, values, 0, "requests/s") for title, values in rates.items()}
    cost = {title: Series(title, values, 0, "processor time of a request, us") for title, values in times.items()}

    def ratio(rows: dict[str, Series], one: str, other: str, body: str) -> Series:
        return rows[f"{one}: {body}"].over(rows[f"{other}: {body}"], f"{one} / {other}: {body}")

    inside = [ratio(cost, INSIDE, LOCAL, body) for body in NAMES.values()]
    return Report(
        title="ray: a model on another node of a Ray cluster, behind a step of ours and behind Ray Serve",
        notes=[
            f"both nodes are on this machine; {CONNECTIONS['noop']} connections, {CONNECTIONS['upload']} for uploads "
            "of 1 MiB; the model returns the number, or looks at every page",
            f"RayActor and serve.batch: batches of {ACTOR_BATCH_SIZE} at most, one actor or replica on the other node; "
            "the request arrives on the first one",
            "ours in Ray Serve: the whole application of ours with a local worker, in a replica on the other node",
            "processor time: of all processes of the cluster and of ours, less what they spend without a load",
        ],
        rows=[
            *(Series(title, values, 2, "p50 over one connection, ms") for title, values in p50.items()),
            *rate.values(),
            *cost.values(),
            *(Series(row.name, row.values, row.digits, "ratio of the processor times") for row in inside),
        ],
        promises=[
            promise
            for body in NAMES.values()
            for promise in (
                Promise(ratio(rate, ACTOR, PLAIN, body), 1.0, is_minimum=True),
                Promise(ratio(cost, ACTOR, PLAIN, body), 1.0),
            )
        ],
    )


def _entrants(stack: contextlib.ExitStack) -> dict[tuple[str, str], Entrant]:
    serve = stack.enter_context(Server("ray_serve", "all"))
    entrants = {}
    for body in NAMES:
        local = stack.enter_context(Server("ours_fastapi", body))
        actor = stack.enter_context(Server("ours_fastapi", f"{body}-actor"))
        entrants[LOCAL, body] = Entrant(local, "/work")
        entrants[ACTOR, body] = Entrant(actor, "/work")
        entrants[PLAIN, body] = Entrant(serve, f"/plain/{body}")
        entrants[INSIDE, body] = Entrant(serve, f"/{body}/work")
    return entrants


def _request(directory: Path, body: str, path: str) -> Request:
    if body == "noop":
        file = directory / "body.json"
        file.write_text('{"value": 7}')
        return Request({"value": 7}, file, path=path)
    file = directory / "body"
    file.write_bytes(b"\1" * MIB)
    return Request({"value": MIB // PAGE}, file, "application/octet-stream", path)


def _spent(cluster: Cluster, servers: Iterable[Server]) -> float:
    """Return the seconds that all processes have computed."""
    pids = [*cluster.pids(), *(pid for server in servers for pid in tree(server.pid))]
    spent = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            spent += processor_time([pid])
    return spent
