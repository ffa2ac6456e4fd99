"""Compares the engine's microbenchmarks and the plain path with the committed baselines.

    python -m tests.benchmarks.check           compare; the exit status is 1 when a limit is exceeded
    RENEW=1 python -m tests.benchmarks.check   write the results of today into the baselines

A ratio is the cost of a piece of the engine divided by that of a loop of plain Python that does the same sort of
things. Machine and interpreter change both alike. Costs are instructions where valgrind is installed: the same number
in every run, however busy the machine. Elsewhere they are CPU time, which is judged by the best of several runs.

The plain path has a budget of its own, in absolute counts (`plain_path`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .counting import count_instructions, run_subject
from .plain_path import PlainPath, processor_time

WORSE = 1.15
"""A piece whose ratio is above this multiple of the committed one has become slower."""

BASELINE = Path(__file__).with_name("baseline.json")
SUBJECT = f"{__package__}.subjects.micro"


class Counter(ABC):
    """A way to tell what each piece costs.

    Attributes:
        name: Under which its ratios are kept.
    """

    name: ClassVar[str]

    @abstractmethod
    def ratios(self) -> dict[str, float]:
        """Run every piece."""

    @abstractmethod
    def again(self, ratios: dict[str, float]) -> dict[str, float]:
        """Give what looks slow a second chance, where another run may tell something else."""


class Instructions(Counter):
    """Counts instructions (valgrind --tool=callgrind)."""

    name = "instructions"

    def ratios(self) -> dict[str, float]:
        costs = count_instructions(SUBJECT)
        reference = costs.pop("reference")
        return {name: cost / reference for name, cost in costs.items()}

    def again(self, ratios: dict[str, float]) -> dict[str, float]:
        return ratios


class Clock(Counter):
    """Compares CPU time."""

    name = "clock"

    def ratios(self) -> dict[str, float]:
        ratios: dict[str, float] = run_subject(sys.executable, "-m", SUBJECT, "clock")
        return ratios

    def again(self, ratios: dict[str, float]) -> dict[str, float]:
        return {name: min(ratio, ratios[name]) for name, ratio in self.ratios().items()}


@dataclass(frozen=True)
class Comparison:
    """What was measured beside what was committed.

    Attributes:
        ratios: Of today.
        baseline: Committed.
    """

    ratios: dict[str, float]
    baseline: dict[str, float]

    @property
    def changes(self) -> dict[str, float]:
        """How many times the committed ratio each is."""
        return {name: ratio / self.baseline[name] for name, ratio in self.ratios.items()}

    @property
    def holds(self) -> bool:
        """Whether nothing has become slower."""
        return all(change <= WORSE for change in self.changes.values())

    def __str__(self) -> str:
        lines = []
        for name, change in self.changes.items():
            verdict = "SLOWER" if change > WORSE else "faster" if change < 1 / WORSE else ""
            numbers = f"{self.ratios[name]:9.3f} {self.baseline[name]:9.3f} {100 * change - 100:+8.1f} %"
            lines.append(f"{numbers}  {name:45}{verdict}".rstrip())
        return "\n".join([f"{'ratio':>9} {'baseline':>9} {'change':>10}", *lines])


def compare(counter: Counter, attempts: int = 3) -> Comparison:
    """Measure, and measure again what looks slow."""
    baseline = json.loads(BASELINE.read_text())[counter.name]
    comparison = Comparison(counter.ratios(), baseline)
    for _ in range(attempts - 1):
        if not comparison.holds:
            comparison = Comparison(counter.again(comparison.ratios), baseline)
    return comparison


def main() -> int:
    has_valgrind = shutil.which("valgrind") is not None
    plain_path = PlainPath.measure() if has_valgrind else None
    counters: list[Counter] = [Instructions(), Clock()] if has_valgrind else [Clock()]
    if os.environ.get("RENEW"):
        renew(counters, plain_path)
        return 0
    comparison = compare(counters[0])
    print(f"{counters[0].name}, as a ratio to the reference loop\n{comparison}\n")
    print(plain_path or "instructions of the plain path: not counted without valgrind")
    print(processor_time())
    return 0 if comparison.holds and not (plain_path and plain_path.over_budget) else 1


def renew(counters: list[Counter], plain_path: PlainPath | None) -> None:
    """Write the ratios and the counts of today into the baselines."""
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    baseline |= {counter.name: _rounded(counter.ratios()) for counter in counters}
    BASELINE.write_text(json.dumps(baseline, indent=4) + "\n")
    if plain_path is not None:
        plain_path.renewed().write()


def _rounded(ratios: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{ratio:.4g}") for name, ratio in ratios.items()}


if __name__ == "__main__":
    sys.exit(main())
