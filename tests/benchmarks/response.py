"""Large answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .client import Client, Request
from .contest import ROUNDS, Contest, Contestant
from .report import Report
from .servers.work import LARGE_ARRAY_SIZE

CONNECTIONS = 4


def measure() -> Report:
    """An array that a worker made, beside bytes that were there already."""
    with tempfile.TemporaryDirectory() as directory:
        contest = Contest(contestants(Path(directory)), Client(CONNECTIONS, 2), rounds=ROUNDS)
        (results,) = contest.run(with_memory=True)
    rates = results.rates()
    return Report(
        title=f"response-16mib: an array of {LARGE_ARRAY_SIZE >> 20} MiB as the answer, {CONNECTIONS} connections",
        notes=["fastapi_aqueduct: the worker's array as a SharedResponse; FastAPI alone: an array of its own as bytes"],
        rows=[*rates.values(), *results.memory().values()],
        promises=rates.at_least(0.9, "ours", "floor"),
        references=rates.names("floor"),
    )


def contestants(directory: Path) -> list[Contestant]:
    """Return the servers that can do this work."""
    body = directory / "body.json"
    body.write_text('{"value": 1}')
    request = Request(b"\1" * LARGE_ARRAY_SIZE, body)
    return [
        Contestant("ours", "fastapi_aqueduct, SharedResponse", "ours_fastapi", "response", request),
        Contestant("floor", "FastAPI alone, Response(array.tobytes())", "floor_fastapi", "response", request),
        Contestant("floor-bytes", "FastAPI alone, the same bytes again", "floor_fastapi", "response-bytes", request),
    ]
