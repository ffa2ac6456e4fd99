"""API processes that share a pipeline, while processes of all kinds are killed: nothing hangs, is wrong or is left."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import StartError
from fastapi_aqueduct.engine.memory.regions import most_guests
from fastapi_aqueduct.engine.system.cpu import available_cores

from ..support import DEADLINE, ROOT, script_environment, wait_until
from .guests import connect, connected
from .storm_caller import DEFAULTS
from .support import kill_one_of, pipelines, processes

PROCESSES = 3
SECONDS = 60.0
STEP = 1.0
"""Seconds between two kills, at most."""


class Process:
    """An API process.

    Args:
        seed: Of what is random in it.
        directory: Where the socket of the pipeline is.
        arguments: What else is passed to it.
    """

    def __init__(self, seed: int, directory: Path, *arguments: str) -> None:
        environment = {**script_environment(), "XDG_RUNTIME_DIR": str(directory)}
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.shared.storm_caller", str(seed), *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.read() == "ready"

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._close()

    def say(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def read(self) -> Any:
        """Return what it says next."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def leave(self) -> None:
        """Have it leave in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(2 * DEADLINE) == 0
        self._close()

    def _close(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Fleet:
    """The API processes.

    Args:
        directory: Where the socket of their pipeline is.
        chance: Decides what is killed.
        arguments: What is passed to them.
    """

    def __init__(self, directory: Path, chance: random.Random, *arguments: str) -> None:
        self._directory = directory
        self._chance = chance
        self._arguments = arguments
        self._started = 0
        self._processes = [self._start() for _ in range(PROCESSES)]

    def strike(self) -> str:
        """Kill a process of any kind, or stop a pipeline for a moment; return what it was."""
        kind = self._chance.choice(["worker", "worker", "server", "pipeline", "hang"])
        if kind != "server":
            return kill_one_of(kind, self._directory, self._chance)
        self._processes.pop(self._chance.randrange(PROCESSES)).kill()
        self._processes.append(self._start())
        return kind

    def ask(self, line: str) -> list[Any]:
        """Send all of them a line, and return their answers."""
        for process in self._processes:
            process.say(line)
        return [process.read() for process in self._processes]

    def leave(self) -> None:
        """Have all of them leave in order."""
        for process in self._processes:
            process.leave()

    def kill(self) -> None:
        """Kill all of them, and their pipelines."""
        for process in self._processes:
            process.kill()
        for pid in processes(self._directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(self) -> Process:
        self._started += 1
        return Process(self._started, self._directory, *self._arguments)


@contextlib.contextmanager
def fleet_in(directory: Path, chance: random.Random, *arguments: str) -> Iterator[Fleet]:
    """Start API processes; show what they have logged if the context fails."""
    fleet = Fleet(directory, chance, *arguments)
    try:
        yield fleet
    except BaseException:
        fleet.kill()
        print((directory / "log").read_text()[-20_000:])
        raise


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("seed", "arguments"), [(1, []), (2, []), (1, [DEFAULTS])])
def test_nothing_hangs_is_wrong_or_is_left_while_everything_is_killed(
    seed: int, arguments: list[str], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    with fleet_in(tmp_path, chance, *arguments) as fleet:
        struck: Counter[str] = Counter()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            struck[fleet.strike()] += 1
            time.sleep(chance.uniform(0, STEP))  # the storm itself, not a wait for something
        seen: Counter[str] = sum((Counter(ends) for ends in fleet.ask("rest")), Counter())
        print(f"struck {dict(struck)}, seen {dict(seen)}")
        assert seen["right"] > 100
        assert not seen["wrong"] and not seen["hung"], seen
        assert fleet.ask("look") == [{}] * PROCESSES
        assert len(pipelines(tmp_path)) == 1
        check_regions(tmp_path)
        fleet.leave()
        assert wait_until(lambda: not processes(tmp_path), DEADLINE), processes(tmp_path)
        assert list((tmp_path / "aqueduct").iterdir()) == []


def check_regions(directory: Path) -> None:
    """Check that as many API processes can join as if none had been killed, and no more."""
    (path,) = directory.glob("aqueduct/*.sock")
    guests = most_guests(available_cores())
    with contextlib.ExitStack() as stack:
        for _ in range(guests - PROCESSES):
            stack.enter_context(connected(path, "storm"))
        with pytest.raises(StartError, match=f"serves {guests} API processes already"):
            connect(path, "storm")
