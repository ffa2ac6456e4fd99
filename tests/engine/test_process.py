"""Processes of workers: what remains of one that has ended."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastapi_aqueduct.engine.options import StartMethod
from fastapi_aqueduct.engine.workers.group import Remains
from fastapi_aqueduct.engine.workers.process import Descriptors, ForkserverProcess, Process, SpawnedProcess

from ..support import DEADLINE, traces, wait_until


def start_stillborn(method: StartMethod) -> Process:
    """Start a worker that ends at once, because its channel is closed."""
    ours, theirs = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR)
    kind: type[Process] = SpawnedProcess if method == "spawn" else ForkserverProcess
    try:
        return kind(theirs, Descriptors(null, null, null, null), "stillborn", {})
    finally:
        ours.close()
        theirs.close()
        os.close(null)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_closed_process_keeps_its_status_and_no_descriptor(method: StartMethod) -> None:
    before = traces()
    process = start_stillborn(method)
    if method == "spawn":
        assert process.wait(DEADLINE) == 0
    assert wait_until(lambda: process.exit_code() == 0, DEADLINE)
    process.close()
    assert not (traces() - before).descriptors
    process.close()
    assert (process.exit_code(), process.wait(0.0)) == (0, 0)


def test_threads_that_count_the_children_of_multiprocessing_take_no_exit_status_away() -> None:
    """`multiprocessing` does the same in each thread that starts a process."""
    is_over = threading.Event()

    def count_children() -> None:
        while not is_over.is_set():
            multiprocessing.active_children()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(count_children)
        try:
            for _ in range(40):
                process = start_stillborn("forkserver")
                assert wait_until(lambda process=process: process.exit_code() is not None, DEADLINE)  # type: ignore[misc]
                assert process.exit_code() == 0
                process.close()
        finally:
            is_over.set()


def test_a_launch_without_a_process_leaves_the_children_of_the_server_alone() -> None:
    """Their exit statuses belong to the application; the number 0 would stand for the group of the server."""
    child = subprocess.Popen(["sh", "-c", "exit 7"])
    has_ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
    assert wait_until(lambda: os.waitid(os.P_PID, child.pid, has_ended) is not None, DEADLINE)
    Remains().add(0)
    assert child.wait(DEADLINE) == 7
