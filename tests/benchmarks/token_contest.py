"""Servers that stream tokens under the same loads, in turns."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from .contest import SUBJECTS, Rows
from .report import Series
from .server import Server
from .servers.token_model import MAX_BATCH
from .token_client import Tokens, leave, read_streams

ROUNDS = int(os.environ.get("ROUNDS", "5"))
PAUSE = 0.001
"""Seconds between two looks of the client at its connections, so that it leaves the processors to the servers."""

STEP = 0.020
STEPS = 50
REQUESTS = 20
"""Requests one after the other."""

LEAVERS = 5
LEAVING_STEP = 0.005
LASTING = 1.0
"""Seconds after which a generation ends by itself that goes on without its client."""

MANY, ONE, STEADY, ALONE, LEAVING = "many", "one", "steady", "alone", "leaving"
RATE, COST, FIRST, END = "rate", "cost", "first", "end"
_WITH_STEP = f"{MAX_BATCH} streams, a step of {STEP * 1000:.0f} ms"
UNITS = {
    (MANY, COST): (f"us of the processor per token, {MAX_BATCH} streams", 1),
    (MANY, RATE): (f"tokens/s, {MAX_BATCH} streams", 0),
    (ONE, COST): ("us of the processor per token, 1 stream", 1),
    (ONE, RATE): ("tokens/s, 1 stream", 0),
    (STEADY, RATE): (f"tokens/s, {_WITH_STEP}", 0),
    (STEADY, COST): (f"us of the processor per token, {_WITH_STEP}", 0),
    (STEADY, FIRST): (f"ms to the first token, {_WITH_STEP}", 1),
    (ALONE, FIRST): ("ms to the first token, 1 stream", 2),
    (LEAVING, END): (f"ms from leaving to the end, the longest of {LEAVERS}", 1),
}
"""The unit of each quantity of a load, and its decimal places, in the order of the tables."""


@dataclass(frozen=True)
class Contestant:
    """A server that is compared.

    Attributes:
        key: To choose it and to refer to it.
        name: As it is shown.
        server: Module in `servers`.
        work: What the server is to do.
        loads: What it is loaded with.
        tokens: How many it makes where they cost no time: fewer for a slow one.
    """

    key: str
    name: str
    server: str
    work: str
    loads: tuple[str, ...]
    tokens: int = 9600

    @property
    def is_wanted(self) -> bool:
        """Whether SUBJECTS asks for it."""
        return not SUBJECTS or any(self.key == name or self.key.startswith(f"{name}-") for name in SUBJECTS)


def run(contestants: list[Contestant]) -> dict[tuple[str, str], Rows]:
    """Start the servers and load one after the other, round by round; each must give all tokens.

    Returns:
        What was measured, by load and quantity.
    """
    rows = {key: Rows() for key in UNITS}
    wanted = [one for one in contestants if one.is_wanted]
    question = Tokens(3)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(one.server, one.work)) for one in wanted]
        for number in range(1 + ROUNDS):
            for one, server in zip(wanted, servers, strict=True):
                with server.awake():
                    server.wait(question)
                    for load in one.loads:
                        found = LOADS[load](one, server)
                        if number:  # the first round warms up
                            _add(rows, one, load, found)
                    # After this answer nothing is under way that a suspension would break.
                    server.wait(question)
        for server in servers:
            server.dismiss()
    return rows


def _add(rows: dict[tuple[str, str], Rows], one: Contestant, load: str, found: dict[str, float]) -> None:
    for quantity, value in found.items():
        unit, digits = UNITS[load, quantity]
        rows[load, quantity].setdefault(one.key, Series(one.name, [], digits, unit)).values.append(value)


def _many(one: Contestant, server: Server) -> dict[str, float]:
    rate, cost, _ = _load(server, Tokens(one.tokens // MAX_BATCH), MAX_BATCH)
    return {RATE: rate, COST: cost}


def _one(one: Contestant, server: Server) -> dict[str, float]:
    rate, cost, _ = _load(server, Tokens(one.tokens // 2), 1)
    return {RATE: rate, COST: cost}


def _steady(one: Contestant, server: Server) -> dict[str, float]:
    rate, cost, first = _load(server, Tokens(STEPS, STEP), MAX_BATCH)
    return {RATE: rate, COST: cost, FIRST: first * 1000}


def _alone(one: Contestant, server: Server) -> dict[str, float]:
    firsts = [read_streams(server.port, Tokens(1), 1).first[0] for _ in range(REQUESTS)]
    return {FIRST: median(firsts) * 1000}


def _leaving(one: Contestant, server: Server) -> dict[str, float]:
    ends = [leave(server.port, round(LASTING / LEAVING_STEP), LEAVING_STEP) for _ in range(LEAVERS)]
    return {END: max(ends) * 1000}


def _load(server: Server, request: Tokens, connections: int) -> tuple[float, float, float]:
    """Return tokens per second, microseconds of all processes per token, and the median of the first tokens."""
    used = server.processor_time()
    reading = read_streams(server.port, request, connections, PAUSE)
    used = server.processor_time() - used
    if reading.tokens != request.count * connections:
        raise RuntimeError(f"{server.name} has sent {reading.tokens} of {request.count * connections} tokens")
    return reading.tokens / reading.seconds, used / reading.tokens * 1e6, median(reading.first)


LOADS: dict[str, Callable[[Contestant, Server], dict[str, float]]] = {
    MANY: _many,
    ONE: _one,
    STEADY: _steady,
    ALONE: _alone,
    LEAVING: _leaving,
}
"""Each returns what it has measured, by quantity."""
