"""API processes that share a pipeline, while processes of all kinds are killed: nothing hangs, nothing is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ..support import DEADLINE, ROOT, script_environment, wait_until

PROCESSES = 3
SECONDS = 60.0
STEP = 1.0
"""Seconds between two kills, at most."""


class Process:
    """An API process.

    Args:
        seed: Of what is random in it.
        directory: Where the socket of the pipeline is.
    """

    def __init__(self, seed: int, directory: Path) -> None:
        environment = {**script_environment(), "XDG_RUNTIME_DIR": str(directory)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shared.storm_caller", str(seed)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._read() == "ready"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._close()

    def end(self) -> Counter[str]:
        """Have it end, and return what it has seen."""
        self._process.terminate()
        seen: Counter[str] = Counter(self._read())
        assert self._process.wait(2 * DEADLINE) == 0
        self._close()
        return seen

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _close(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def children(pid: int) -> list[int]:
    """List the children of a process that has not ended."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def pipelines(directory: Path) -> list[int]:
    """List the pipeline processes of a directory, also those whose parents have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if b"shared.process" in line and os.fsencode(directory) in (path.parent / "environ").read_bytes():
                found.append(int(path.parent.name))
    return found


def kill_one(random_: random.Random, fleet: list[Process], directory: Path, seed: int) -> str:
    """Kill a process of any kind; one of the server is replaced. Return what it was."""
    kind = random_.choice(["worker", "worker", "server", "pipeline"])
    running = pipelines(directory)
    if kind == "server":
        fleet.pop(random_.randrange(len(fleet))).kill()
        fleet.append(Process(seed, directory))
    elif running:
        victims = [worker for pid in running for worker in children(pid)] if kind == "worker" else running
        with contextlib.suppress(ProcessLookupError):
            os.kill(random_.choice(victims or running), signal.SIGKILL)
    return kind


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_hangs_and_nothing_is_wrong_while_everything_is_killed(seed: int, tmp_path: Path) -> None:
    random_ = random.Random(seed)
    fleet = [Process(number, tmp_path) for number in range(PROCESSES)]
    killed: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        killed[kill_one(random_, fleet, tmp_path, 10 + killed.total())] += 1
        time.sleep(random_.uniform(0, STEP))  # the storm itself, not a wait for something
    seen: Counter[str] = sum((process.end() for process in fleet), Counter())
    print(f"killed {dict(killed)}, seen {dict(seen)}")
    assert seen["right"] > 100
    assert not seen["wrong"] and not seen["hung"], seen
    assert wait_until(lambda: not pipelines(tmp_path), DEADLINE)
