"""Uploads that fail in every way, for minutes, beside others that must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import httpx
import pytest

from ..asgi.service import launched
from ..support import DEADLINE, wait_until
from .conftest import Note
from .soak import DEATH, MISHAPS, Soak
from .soaked import MEMORY_LIMIT

SECONDS = 180.0

FLAT = 3 << 20
"""Bytes by which the server may be larger in the last third of the soak than in the second.

A soak of 14 minutes and 100,000 uploads has reached 57 MiB after one minute and 59 MiB after eight, in two steps, and
has stayed there: such a step comes when more is in use at one moment than ever before, which the heap then keeps. A
third of this soak has some 5,000 uploads; if each left 1 KiB, that would be 5 MiB.
"""

SERVER = ["uvicorn", "tests.reliability.soaked:app", "--port={port}", "--log-level=critical"]


@pytest.mark.long
def test_uploads_that_fail_leave_nothing_and_harm_no_other(
    tmp_path: Path, seeded: random.Random, note_figure: Note
) -> None:
    with launched(tmp_path, SERVER) as (process, port):
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE)

        def held() -> dict[str, int]:
            with contextlib.suppress(httpx.TransportError):
                figures = client.get("/figures").json()
                return {name: value for name, value in figures.items() if value}
            return {"unreachable": 1}

        with client:
            assert wait_until(lambda: held() == {}, DEADLINE), (tmp_path / "log").read_text()
            soak = Soak(port, process.pid, time.monotonic() + SECONDS)
            asyncio.run(soak.run(seeded))
            assert wait_until(lambda: held() == {}, DEADLINE), held()
    note_figure(f"soak of {SECONDS:g} s in {MEMORY_LIMIT >> 20} MiB", str(soak))
    assert set(soak.good) == {"right"}, soak.good
    assert {mishap for mishap, status in soak.bad if status == mishap.status} == {*MISHAPS, DEATH}, str(soak)
    assert all(mishap.allows(status) for mishap, status in soak.bad), str(soak)
    assert soak.growth() < FLAT, soak.sizes
