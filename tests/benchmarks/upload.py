"""Bodies of which the worker looks at every page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .client import Client, Request
from .contest import ROUNDS, Contest, Contestant
from .processes import MIB
from .report import Report
from .servers.work import PAGE

CONNECTIONS = 8
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
"""As long as Chrome and Safari make them; those of curl and Firefox are longer."""
FLOOR = "FastAPI alone awaits request.body(), or throws away what request.stream() gives, and touches no page"


def measure_small() -> Report:
    """1 MiB: as fast as a server that has no worker."""
    with tempfile.TemporaryDirectory() as directory:
        (results,) = Contest(contestants(Path(directory), MIB), Client(CONNECTIONS)).run()
    rates = results.rates()
    return Report(
        title=f"upload-1mib: bodies of 1 MiB, the worker touches every page, {CONNECTIONS} connections",
        notes=[FLOOR],
        rows=list(rates.values()),
        promises=[
            *rates.at_least(1.0, "ours", "floor"),
            *rates.at_least(1.1, "ours", "mosec"),
            *rates.at_least(0.95, "ours", "stream"),
            *rates.at_least(0.8, "ours-multipart", "stream"),
        ],
        references=rates.names("floor", "mosec"),
    )


def measure_large() -> Report:
    """16 MiB: copies and memory."""
    with tempfile.TemporaryDirectory() as directory:
        # One aqueduct is enough: they differ little here, and each takes ten seconds.
        who = [one for one in contestants(Path(directory), 16 * MIB) if one.key != "aqueduct-fastapi"]
        contest = Contest(who, Client(CONNECTIONS, 2), rounds=min(ROUNDS, 3))
        (results,) = contest.run(with_memory=True)
    rates, memory = results.rates(), results.memory()
    return Report(
        title=f"upload-16mib: bodies of 16 MiB, the worker touches every page, {CONNECTIONS} connections",
        notes=[FLOOR, "memory: PSS, shared memory counted once, sampled under load in turns of their own"],
        rows=[*rates.values(), *memory.values()],
        promises=[
            *rates.at_least(1.2, "ours", "mosec"),
            *rates.at_least(0.95, "ours", "stream"),
            *rates.at_least(0.8, "ours-multipart", "stream"),
            *memory.at_most(0.6, "ours", "mosec"),
        ],
        references=rates.names("floor", "mosec"),
    )


def contestants(directory: Path, size: int) -> list[Contestant]:
    """Return the servers that can do this work with a body of ``size`` bytes."""
    body = directory / "body"
    body.write_bytes(b"\1" * size)
    form = directory / "form"
    form.write_bytes(_form(body.read_bytes()))
    kind = "application/octet-stream"
    touched = Request({"value": size // PAGE}, body, kind)
    read = Request({"value": size}, body, kind)
    posted = Request({"value": size // PAGE}, form, f"multipart/form-data; boundary={BOUNDARY}")
    return [
        Contestant("ours", "fastapi_aqueduct, raw", "ours_fastapi", "upload", touched),
        Contestant("ours-malloc", "ours without adjust_malloc", "ours_fastapi", "upload-unadjusted", touched),
        Contestant("ours-multipart", "fastapi_aqueduct, multipart", "ours_fastapi", "upload", posted),
        Contestant("floor", "FastAPI alone, body", "floor_fastapi", "upload", read),
        Contestant("stream", "FastAPI alone, stream", "floor_fastapi", "stream", read),
        Contestant("mosec", "Mosec", "mosec_server", "upload", touched),
        Contestant("aqueduct-aiohttp", "aqueduct with aiohttp", "aqueduct_aiohttp", "upload", touched),
        Contestant("aqueduct-fastapi", "aqueduct with FastAPI", "aqueduct_fastapi", "upload", touched),
        Contestant("pool", "FastAPI and ProcessPoolExecutor", "process_pool", "upload", touched),
        Contestant("litserve", "LitServe", "litserve_server", "upload", touched),
        Contestant("gunicorn", "gunicorn's dirty workers", "gunicorn_server", "upload", touched),
    ]


def _form(content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="body"; filename="body"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
