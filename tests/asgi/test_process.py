"""What the lifespan changes in the server's process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY, generate_latest

from fastapi_aqueduct import Aqueduct, ConfigurationError, Flow, FlowStep
from fastapi_aqueduct.asgi.process import GC_THRESHOLD
from fastapi_aqueduct.testing import client

from ..support import script_environment
from .handlers import Add

linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")

# Frees pieces as large as a server reads, and counts the page faults of taking them again.
FAULTS = """
import logging, resource, sys
from fastapi_aqueduct.asgi.process import ProcessSettings

logging.basicConfig(level=logging.INFO, format="%(message)s")
ProcessSettings(adjust_malloc=sys.argv[1] == "True", adjust_gc=False).apply()

def read():
    for _ in range(50):
        pieces = [bytes(250_000) for _ in range(8)]

read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def make_app(**settings: Any) -> FastAPI:
    return FastAPI(lifespan=Aqueduct(Flow(FlowStep(Add())), **settings).lifespan)


async def test_the_collector_is_left_alone() -> None:
    before = gc.get_threshold()
    async with client(make_app()):
        assert gc.get_threshold() == before


async def test_the_collector_is_relaxed_while_the_application_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Where that is asked for, and in one line of the log; one that is switched off stays off."""
    before = gc.get_threshold()
    app = make_app(adjust_gc=True)
    with caplog.at_level(logging.INFO):
        async with client(app):
            assert gc.get_threshold() == (GC_THRESHOLD, *before[1:])
    assert gc.get_threshold() == before
    assert len([line for line in caplog.messages if "garbage collector" in line]) == 1
    try:
        gc.set_threshold(0)
        async with client(app):
            assert gc.get_threshold()[0] == 0
        gc.set_threshold(*before)
        async with client(app):
            gc.set_threshold(500)
        assert gc.get_threshold()[0] == 500  # what the application sets meanwhile is its own
    finally:
        gc.set_threshold(*before)


def faults(adjust: bool, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(adjust)],
        env={**script_environment(), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return int(done.stdout), done.stderr


@linux
def test_freed_pieces_are_used_again() -> None:
    """Without a page fault, where glibc alone takes new pages for every piece."""
    kept, line = faults(True)
    left, silence = faults(False)
    assert kept < 50 < left
    assert "keeps up to 16 MiB" in line and len(line.splitlines()) == 1
    assert silence == ""


@linux
def test_settings_in_the_environment_win() -> None:
    count, silence = faults(True, MALLOC_TRIM_THRESHOLD_="131072")
    assert count > 50
    assert silence == ""


@linux
@pytest.mark.parametrize("setting", [{}, {"adjust_malloc": True}, {"adjust_malloc": False}])
async def test_the_allocator_is_adjusted_unless_it_is_switched_off(
    setting: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with client(make_app(**setting)):
            pass
    lines = [line for line in caplog.messages if "freed memory" in line]
    is_free = not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    assert len(lines) == (is_free and setting.get("adjust_malloc", True))


async def test_signals_are_left_alone_where_that_is_asked_for() -> None:
    def handler(signum: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    try:
        async with client(make_app(handle_signals=False)):
            assert signal.getsignal(signal.SIGTERM) is handler
        async with client(make_app()):
            assert signal.getsignal(signal.SIGTERM) is not handler
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ConfigurationError, match="drain_delay begins with SIGTERM"):
        make_app(handle_signals=False, drain_delay=1)


async def test_metrics_are_not_registered_where_that_is_asked_for() -> None:
    for setting, is_there in ({"register_metrics": False}, False), ({}, True):
        async with client(make_app(**setting)):
            assert (b"aqueduct_workers{" in generate_latest(REGISTRY)) == is_there
