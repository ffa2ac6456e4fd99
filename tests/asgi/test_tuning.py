"""What the lifespan changes in the server's process."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, Flow, FlowStep
from fastapi_aqueduct.asgi.tuning import GC_THRESHOLD, keep_pieces
from fastapi_aqueduct.testing import client

from ..support import script_environment
from .handlers import Add

# Frees pieces as large as a server reads, and counts the page faults of taking them again.
FAULTS = """
import resource, sys
from fastapi_aqueduct.asgi.tuning import keep_pieces
if sys.argv[1] == "keep":
    keep_pieces()

def read():
    for _ in range(50):
        pieces = [bytes(250_000) for _ in range(8)]

read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def make_app() -> FastAPI:
    return FastAPI(lifespan=Aqueduct(Flow(FlowStep(Add()))).lifespan)


async def test_the_collector_is_relaxed_while_the_application_runs() -> None:
    """And as it was before afterwards; one that is switched off stays off."""
    before = gc.get_threshold()
    app = make_app()
    async with client(app):
        assert gc.get_threshold() == (GC_THRESHOLD, *before[1:])
    assert gc.get_threshold() == before
    gc.set_threshold(0)
    try:
        async with client(app):
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_pieces_are_used_again() -> None:
    """Without a page fault, where glibc alone takes new pages for every piece."""

    def faults(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], env=script_environment(), capture_output=True, check=True, timeout=30
        )
        return int(done.stdout)

    assert faults("keep") < 50 < faults("leave")


def test_settings_in_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_pieces() is False
