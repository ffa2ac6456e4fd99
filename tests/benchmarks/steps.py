"""An array that goes from step to step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import exchange
from .client import Client, Request
from .contest import ROUNDS, Contest, Contestant
from .report import Report
from .servers.work import ARRAY_SIZE

COUNTS = (1, 2, 3)
CONNECTIONS = 8
NOTE = f"the first step makes an array of {ARRAY_SIZE >> 10} KiB, the last one looks at its end; one worker for each"


def measure() -> Report:
    """Three steps, over one connection and over several."""
    with tempfile.TemporaryDirectory() as directory:
        request = _request(Path(directory))
        chain = [*(_ours(count, request) for count in COUNTS[:-1]), *(_bare(count, request) for count in COUNTS)]
        clients = Client(1), Client(CONNECTIONS)
        one, several = Contest([*contestants(request), *chain], *clients, rounds=min(ROUNDS, 4)).run()
    single, together, p50 = one.rates(), several.rates(), one.p50()
    return Report(
        title="steps: three steps that do nothing, an array handed from one to the next",
        notes=[NOTE, f"{exchange.NOTE}; no array"],
        rows=[
            *single.in_unit("requests/s, 1 connection"),
            *together.in_unit(f"requests/s, {CONNECTIONS} connections"),
            *p50.in_unit("p50 in ms, 1 connection"),
        ],
        promises=[
            *single.at_least(1.7, "ours", "mosec"),
            *together.at_least(1.2, "ours", "mosec"),
            *p50.at_most_beyond(0.2, "ours-2", "ours-1"),
            *p50.at_most_beyond(0.2, "ours", "ours-2"),
        ],
        references=single.names("floor", "mosec"),
    )


def contestants(request: Request) -> list[Contestant]:
    """Return the servers that can do this work."""
    return [
        _ours(3, request),
        Contestant("floor", "FastAPI alone", "floor_fastapi", "steps", request),
        Contestant("mosec", "Mosec", "mosec_server", "steps-3", request),
        Contestant("aqueduct-aiohttp", "aqueduct with aiohttp", "aqueduct_aiohttp", "steps-3", request),
        Contestant("aqueduct-fastapi", "aqueduct with FastAPI", "aqueduct_fastapi", "steps-3", request),
        Contestant("pool", "FastAPI and three ProcessPoolExecutors", "process_pool", "steps-3", request),
    ]


def _ours(count: int, request: Request) -> Contestant:
    key = "ours" if count == COUNTS[-1] else f"ours-{count}"
    steps = "1 step" if count == 1 else f"{count} steps"
    return Contestant(key, f"fastapi_aqueduct, {steps}", "ours_fastapi", f"steps-{count}", request)


def _bare(count: int, request: Request) -> Contestant:
    name = f"FastAPI and {count} bare process{'es' * (count > 1)} that echo{'es' * (count == 1)}"
    return Contestant(f"bare-{count}", name, "bare_process", f"steps-{count}", request, connections=1)


def _request(directory: Path) -> Request:
    body = directory / "body.json"
    body.write_text('{"value": 7}')
    return Request({"value": 7}, body)
