"""Several servers under the same load, in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

from .client import Client, Outcome, Request
from .processes import MIB
from .report import Promise, Series
from .server import Server

ROUNDS = int(os.environ.get("ROUNDS", "5"))
MEMORY_ROUNDS = 2
SAMPLE_INTERVAL = 0.02
SUBJECTS = [name for name in os.environ.get("SUBJECTS", "").split(",") if name]
"""Keys of the contestants that are wanted, or their beginnings; all if empty."""


@dataclass(frozen=True)
class Contestant:
    """A server that is compared.

    Attributes:
        key: To choose it and to speak of it.
        name: As it is shown.
        server: Module in `servers`.
        work: What the server is to do.
        request: What is sent.
        connections: Their number under load; 0: as many as for the others.
    """

    key: str
    name: str
    server: str
    work: str
    request: Request
    connections: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether SUBJECTS asks for it."""
        return not SUBJECTS or any(self.key == name or self.key.startswith(f"{name}-") for name in SUBJECTS)


class Contest:
    """Starts the servers and loads one after the other, round by round.

    Args:
        contestants: Who takes part.
        *clients: The load; with several clients, each contestant has a turn with each.
        rounds: How many turns each gets.
    """

    def __init__(self, contestants: list[Contestant], *clients: Client, rounds: int = ROUNDS) -> None:
        self._contestants = [contestant for contestant in contestants if contestant.is_wanted]
        self._clients = clients
        self._brief = Client(clients[0].connections)
        self._rounds = rounds

    def run(self, with_memory: bool = False) -> list[Results]:
        """Run it; each contestant has to give the right answer first.

        Args:
            with_memory: Look at the memory of all processes too, in turns of their own, since looking takes time.

        Returns:
            What came out with each client.
        """
        turns = [self._warm_up, *(self._measure for _ in range(self._rounds))]
        if with_memory:
            turns += [self._watch] * MEMORY_ROUNDS
        results = [Results({one.key: one.name for one in self._contestants}) for _ in self._clients]
        with ExitStack() as stack:
            servers = {
                (one.server, one.work): stack.enter_context(Server(one.server, one.work)) for one in self._contestants
            }
            for turn in turns:
                for one in self._contestants:
                    server = servers[one.server, one.work]
                    with server.awake():
                        server.wait(one.request)
                        turn(one, server, results)
                        # After this answer nothing is under way that a suspension would break.
                        server.wait(one.request)
            # All at once, since some take seconds.
            for server in servers.values():
                server.dismiss()
        return results

    def _warm_up(self, one: Contestant, server: Server, results: list[Results]) -> None:
        self._brief.run(server.port, one.request)

    def _measure(self, one: Contestant, server: Server, results: list[Results]) -> None:
        for client, result in zip(self._clients, results, strict=True):
            if one.connections in (0, client.connections):
                result.outcomes[one.key].append(client.run(server.port, one.request))

    def _watch(self, one: Contestant, server: Server, results: list[Results]) -> None:
        peak = 0
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(self._brief.run, server.port, one.request)
            while not load.done():
                peak = max(peak, server.footprint())
                time.sleep(SAMPLE_INTERVAL)
            load.result()
        results[0].peaks[one.key].append(peak)


class Results:
    """What came out.

    Args:
        names: Of the contestants, by key.

    Attributes:
        outcomes: What the client saw, one for each round, by key.
        peaks: The most bytes that all processes used together, one for each round, by key.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.outcomes: dict[str, list[Outcome]] = {key: [] for key in names}
        self.peaks: dict[str, list[int]] = {key: [] for key in names}

    def rates(self) -> Rows:
        """Requests per second."""
        return self._rows("requests/s", 0, lambda outcome: outcome.rate)

    def p50(self) -> Rows:
        """Milliseconds in which half of the answers came."""
        return self._rows("p50, ms", 2, lambda outcome: outcome.p50 * 1000)

    def p99(self) -> Rows:
        """Milliseconds in which all answers but one in a hundred came."""
        return self._rows("p99, ms", 1, lambda outcome: outcome.p99 * 1000)

    def memory(self) -> Rows:
        """MiB at the peak."""
        return Rows(
            {
                key: Series(self._names[key], [peak / MIB for peak in peaks], 0, "MiB at the peak, all processes")
                for key, peaks in self.peaks.items()
            }
        )

    def _rows(self, unit: str, digits: int, quantity: Callable[[Outcome], float]) -> Rows:
        return Rows(
            {
                key: Series(self._name(key), [quantity(outcome) for outcome in outcomes], digits, unit)
                for key, outcomes in self.outcomes.items()
                if outcomes
            }
        )

    def _name(self, key: str) -> str:
        failed = sum(outcome.failed for outcome in self.outcomes[key])
        return f"{self._names[key]} ({failed} failed)" if failed else self._names[key]


class Rows(dict[str, Series]):
    """One quantity of all contestants that took part, by key."""

    def in_unit(self, unit: str) -> list[Series]:
        """Return the rows under another unit, to keep those of several contests apart."""
        return [replace(row, unit=unit) for row in self.values()]

    def names(self, *keys: str) -> list[str]:
        """Return the names of those of them that took part."""
        return [self[key].name for key in keys if key in self]

    def at_least(self, limit: float, key: str, other: str) -> list[Promise]:
        """Promise at least ``limit`` times another's value, if both took part."""
        return [Promise(ratio, limit, is_minimum=True) for ratio in self._ratio(key, other)]

    def at_most(self, limit: float, key: str, other: str) -> list[Promise]:
        """Promise at most ``limit`` times another's value, if both took part."""
        return [Promise(ratio, limit) for ratio in self._ratio(key, other)]

    def _ratio(self, key: str, other: str) -> list[Series]:
        if key not in self or other not in self:
            return []
        return [self[key].over(self[other], f"{self[key].name} / {self[other].name}")]

    def at_most_beyond(self, limit: float, key: str, other: str) -> list[Promise]:
        """Promise at most so much more than another's, if both took part."""
        if key not in self or other not in self:
            return []
        return [Promise(self[key].minus(self[other], f"{self[key].name} - {self[other].name}"), limit)]
