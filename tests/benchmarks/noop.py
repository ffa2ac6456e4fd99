"""A request that costs nothing to answer: what the way there and back costs."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from .client import Client, Request
from .contest import Contest, Contestant
from .exchange import NOTE
from .report import Report

CONNECTIONS = 32
BARE = "FastAPI and a bare process that echoes"
ENDPOINT = "fastapi_aqueduct, Starlette route with flow_endpoint"
POLLING = "fastapi_aqueduct, FastAPI route, busy polling"


def measure() -> Report:
    """Many connections: what the processes can do."""
    with tempfile.TemporaryDirectory() as directory:
        (results,) = Contest(contestants(Path(directory)), Client(CONNECTIONS)).run()
    rates = results.rates()
    return Report(
        title=f"noop: a small JSON body there and back, one worker that does nothing, {CONNECTIONS} connections",
        notes=["each with the fastest event loop and parser it can use, one server process, no access log", NOTE],
        rows=list(rates.values()),
        promises=[*rates.at_least(0.9, "ours", "floor"), *rates.at_least(1.1, "ours-starlette", "mosec")],
        references=rates.names("floor", "bare", "mosec"),
    )


def measure_latency() -> Report:
    """One connection: how long one of them takes."""
    with tempfile.TemporaryDirectory() as directory:
        ours, *others = contestants(Path(directory))
        polling = replace(ours, key="ours-poll", name=POLLING, work="noop-poll")
        (results,) = Contest([ours, polling, *others], Client(1)).run()
    p50 = results.p50()
    return Report(
        title="latency: the same over one connection, one request after the other",
        notes=["half of the requests take no longer than this", NOTE],
        rows=list(p50.values()),
        promises=[*p50.at_most_beyond(0.25, "ours", "floor"), *p50.at_most_beyond(0.1, "ours-poll", "floor")],
        references=p50.names("floor", "bare", "mosec"),
    )


def contestants(directory: Path) -> list[Contestant]:
    """Return the servers that can do this work."""
    body = directory / "body.json"
    body.write_text('{"value": 7}')
    request = Request({"value": 7}, body)
    return [
        Contestant("ours", "fastapi_aqueduct, FastAPI route", "ours_fastapi", "noop", request),
        Contestant("ours-starlette", "fastapi_aqueduct, Starlette route", "ours_starlette", "noop", request),
        Contestant("ours-endpoint", ENDPOINT, "ours_starlette", "noop-endpoint", request),
        Contestant("floor", "FastAPI alone", "floor_fastapi", "noop", request),
        Contestant("floor-starlette", "Starlette alone", "floor_starlette", "noop", request),
        Contestant("bare", BARE, "bare_process", "noop", request),
        Contestant("mosec", "Mosec", "mosec_server", "noop", request),
        Contestant("aqueduct-aiohttp", "aqueduct with aiohttp", "aqueduct_aiohttp", "noop", request),
        Contestant("aqueduct-fastapi", "aqueduct with FastAPI", "aqueduct_fastapi", "noop", request),
        Contestant("pool", "FastAPI and ProcessPoolExecutor", "process_pool", "noop", request),
        Contestant("litserve", "LitServe", "litserve_server", "noop", request),
        Contestant("mlpool", "FastAPI and MLPool", "mlpool_server", "noop", request),
        Contestant("gunicorn", "gunicorn's dirty workers", "gunicorn_server", "noop", request),
    ]
