"""Processes of workers: what remains of one that has ended."""

from __future__ import annotations

import os
import socket

import pytest

from fastapi_aqueduct.engine.workers.process import Descriptors, Process, StartMethod, start_process

from ..support import traces, wait_until


def start_stillborn(method: StartMethod) -> Process:
    """Start a worker that ends at once, because its channel is closed."""
    ours, theirs = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return start_process(method, theirs, Descriptors(null, null, null, null), "stillborn", {})
    finally:
        ours.close()
        theirs.close()
        os.close(null)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_closed_process_keeps_its_status_and_no_descriptor(method: StartMethod) -> None:
    before = traces()
    process = start_stillborn(method)
    if method == "spawn":
        assert process.wait(5.0) == 0
    assert wait_until(lambda: process.exit_code() == 0, 5.0)
    process.close()
    assert not (traces() - before).descriptors
    process.close()
    assert (process.exit_code(), process.wait(0.0)) == (0, 0)
