"""A model that is worth batching for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .client import Client, Request
from .contest import ROUNDS, Contest, Contestant, Rows
from .report import Report, Series
from .servers.work import BATCH_SIZE, BATCH_WAIT, CALL_TIME, TASK_TIME

MANY, FEW = 64, 4
"""Connections: enough for four batches at a time, and too few for one."""

ENDPOINT = 'fastapi_aqueduct, batch_timeout="auto", Starlette route with flow_endpoint'
ORACLE = f"FastAPI alone, knowing that {FEW} will come"


def measure() -> Report:
    """Full batches, and batches that will never be full."""
    with tempfile.TemporaryDirectory() as directory:
        body = Path(directory, "body.json")
        body.write_text('{"value": 7}')
        # The first requests come all at once, and the last batch is cut off: they must not count for much.
        clients = Client(MANY, 3), Client(FEW, 2)
        many, few = Contest(contestants(Request({"value": 7}, body)), *clients, rounds=min(ROUNDS, 3)).run()
    full, part = _with_ideal(many.rates(), _rate(BATCH_SIZE)), _with_ideal(few.rates(), _rate(FEW))
    p99 = _with_ideal(many.p99(), MANY / _rate(BATCH_SIZE) * 1000)
    return Report(
        title=f"batching: a model that takes {CALL_TIME * 1000:.0f} ms and {TASK_TIME * 1000:.0f} ms more per task",
        notes=[
            f"at most {BATCH_SIZE} in a batch, which waits {BATCH_WAIT * 1000:.0f} ms at most, one worker",
            "ideal: the model never waits for a task",
            f"{ORACLE}: what the framework, the server and the client leave of that with {FEW} connections",
        ],
        rows=[
            *full.in_unit(f"requests/s, {MANY} connections"),
            *p99.in_unit(f"p99 in ms, {MANY} connections"),
            *part.in_unit(f"requests/s, {FEW} connections"),
        ],
        promises=[
            *full.at_least(0.97, "ours", "ideal"),
            *p99.at_most(1.15, "ours", "ideal"),
            *full.at_least(0.97, "ours-auto", "ideal"),
            *p99.at_most(1.15, "ours-auto", "ideal"),
            *part.at_least(0.9, "ours-auto", "ideal"),
            *part.at_least(0.9, "ours-endpoint-auto", "ideal"),
        ],
        references=["ideal", *part.names("oracle")],
    )


def contestants(request: Request) -> list[Contestant]:
    """Return the servers that can do this work."""
    return [
        Contestant("ours", "fastapi_aqueduct, fixed wait", "ours_fastapi", "batching", request),
        Contestant("ours-auto", 'fastapi_aqueduct, batch_timeout="auto"', "ours_fastapi", "batching-auto", request),
        Contestant("ours-endpoint-auto", ENDPOINT, "ours_starlette", "batching-auto-endpoint", request, FEW),
        Contestant("mosec", "Mosec", "mosec_server", "batching", request),
        Contestant("aqueduct-aiohttp", "aqueduct with aiohttp", "aqueduct_aiohttp", "batching", request),
        Contestant("litserve", "LitServe", "litserve_server", "batching", request),
        Contestant("oracle", ORACLE, "oracle", f"batching-{FEW}", request, FEW),
    ]


def _rate(batch: int) -> float:
    return batch / (CALL_TIME + TASK_TIME * batch)


def _with_ideal(rows: Rows, value: float) -> Rows:
    first = next(iter(rows.values()))
    return Rows({"ideal": Series("ideal", [value] * len(first.values), first.digits, first.unit)} | rows)
