"""A storm: clients that check every answer, while workers are killed and stopped at random."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastapi_aqueduct import Flow, WorkerDied

from ..handlers import Job
from ..support import pids
from .support import all_pids, until

CLIENTS = 24

CALL_TIMEOUT = 60.0
"""Seconds that a call has; one that takes longer still is a hung one."""


@dataclass
class Storm:
    """What happens in a storm.

    Args:
        interval: Seconds from one signal to the next, between these two.
        stops: The part of the signals that are SIGSTOP; the others are SIGKILL.
        leaves: The part of the calls that are cancelled.
        pause: Seconds that a client pauses after a call that was not answered.
        timeout: Seconds that a call has.
        answered: It continues until this number of calls is answered, for four times its duration at most.

    Attributes:
        calls: How many calls ended how: answered, refused, cancelled, wrong, hung, or the name of another error.
        signals: How many signals of each kind were sent.
        latencies: Seconds that calls took.
    """

    interval: tuple[float, float] = (0.02, 0.12)
    stops: float = 0.2
    leaves: float = 0.05
    pause: float = 0.0
    timeout: float = CALL_TIMEOUT
    answered: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    async def rage(self, flow: Flow, seconds: float, chance: random.Random) -> None:
        """Have clients call while workers of every step are killed and stopped."""
        is_over = asyncio.Event()
        seeds = [chance.random() for _ in range(CLIENTS)]
        clients = [asyncio.create_task(self._call(flow, random.Random(seed), is_over)) for seed in seeds]
        start = time.monotonic()
        while self._lasts(time.monotonic() - start, seconds):
            await until(is_over, chance.uniform(*self.interval))
            step = chance.randrange(len(flow.statistics().steps))
            # Mostly those at work: a worker that is never let up to work proves little.
            if workers := (pids if chance.random() < 0.9 else all_pids)(flow, step):
                kind = signal.SIGSTOP if chance.random() < self.stops else signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):  # it has ended, and the flow has not handled that yet
                    os.kill(chance.choice(workers), kind)
                    self.signals[kind.name] += 1
        is_over.set()
        _, hung = await asyncio.wait(clients, timeout=CALL_TIMEOUT + 15)
        self.calls["hung"] += len(hung)
        for client in hung:
            client.cancel()
        for client in clients:
            if client not in hung:
                client.result()

    def _lasts(self, elapsed: float, seconds: float) -> bool:
        return elapsed < (seconds if self.calls["answered"] >= self.answered else 4 * seconds)

    async def _call(self, flow: Flow, chance: random.Random, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            began = time.monotonic()
            end = await self.call_once(flow, chance)
            self.calls[end] += 1
            if end == "cancelled":
                continue
            self.latencies.append(time.monotonic() - began)
            if end != "answered" and self.pause:
                await asyncio.sleep(self.pause)

    async def call_once(self, flow: Flow, chance: random.Random) -> str:
        """Make one call, and say how it has ended."""
        size = chance.randrange(17 * 1024, 64 * 1024)
        picture = np.frombuffer(chance.randbytes(size), np.uint8)
        job = Job(image=picture, number=chance.randrange(1 << 30))
        if chance.random() < self.leaves:
            return await give_up(flow.process(job, CALL_TIMEOUT), chance.uniform(0, 0.05))
        return await _check(flow, job, picture, self.timeout)

    @property
    def share(self) -> float:
        """The part of all calls that were answered."""
        return self.calls["answered"] / max(1, self.calls.total())

    def __str__(self) -> str:
        slow = statistics.quantiles(self.latencies, n=100)[98] if len(self.latencies) > 1 else 0.0
        signals = ", ".join(f"{count} {name}" for name, count in sorted(self.signals.items()))
        calls = ", ".join(f"{count} {name}" for name, count in sorted(self.calls.items()))
        return f"{signals}; calls: {calls}; 99 % within {slow:.2f} s"


async def _check(flow: Flow, job: Any, picture: Any, timeout: float) -> str:
    number = job.number
    try:
        await flow.process(job, timeout)
    except WorkerDied:
        return "refused"
    except Exception as exc:
        return type(exc).__name__
    is_right = job.number == number + 2 and np.array_equal(job.image, 255 - picture)
    return "answered" if is_right else "wrong"


async def give_up(call: Coroutine[Any, Any, object], seconds: float) -> str:
    """Cancel a call after a time, and say how it has ended."""
    try:
        await asyncio.wait_for(call, seconds)
    except TimeoutError:
        return "cancelled"
    except WorkerDied:
        return "refused"
    return "answered"
