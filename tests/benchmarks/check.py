"""Compares the engine's microbenchmarks with the committed ratios; the exit status tells whether all are near them.

    python -m tests.benchmarks.check           compare
    RENEW=1 python -m tests.benchmarks.check   write down the ratios of today

A ratio is what a piece of the engine costs, divided by what a loop of plain Python costs that does the same sort of
things. Machine and interpreter change both alike. Costs are instructions where valgrind is there: the same number
in every run, however busy the machine. Elsewhere they are CPU time, which is judged by the best of several runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

WORSE = 1.15
"""What is so many times the committed ratio has become slower."""

BASELINE = Path(__file__).with_name("baseline.json")
SUBJECT = f"{__package__}.subjects.micro"
TIMEOUT = 120.0


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
        with tempfile.TemporaryDirectory() as directory:
            output = Path(directory, "callgrind")
            times = _run(
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                f"--callgrind-out-file={output}",
                "--dump-before=getpriority",
                sys.executable,
                "-m",
                SUBJECT,
                "marks",
            )
            # A file is written at each mark: what is between two marks is in every second one.
            counts = [_total(Path(f"{output}.{2 * number}")) for number in range(1, len(times) + 1)]
        costs = {name: count / times[name] for name, count in zip(times, counts, strict=True)}
        reference = costs.pop("reference")
        return {name: cost / reference for name, cost in costs.items()}

    def again(self, ratios: dict[str, float]) -> dict[str, float]:
        return ratios


class Clock(Counter):
    """Compares CPU time."""

    name = "clock"

    def ratios(self) -> dict[str, float]:
        ratios: dict[str, float] = _run(sys.executable, "-m", SUBJECT, "clock")
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


def _run(*command: str) -> dict[str, Any]:
    # A random seed would change how full the buckets of sets and dicts of strings are.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=TIMEOUT, check=True)
    values: dict[str, Any] = json.loads(answer.stdout)
    return values


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path.name} says nothing of a total")
    return int(found[1])


def main() -> int:
    counters: list[Counter] = [Clock()]
    if shutil.which("valgrind"):
        counters.insert(0, Instructions())
    if os.environ.get("RENEW"):
        baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        baseline |= {counter.name: _rounded(counter.ratios()) for counter in counters}
        BASELINE.write_text(json.dumps(baseline, indent=4) + "\n")
        return 0
    comparison = compare(counters[0])
    print(f"{counters[0].name}, as a ratio to the reference loop\n{comparison}")
    return 0 if comparison.holds else 1


def _rounded(ratios: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{ratio:.4g}") for name, ratio in ratios.items()}


if __name__ == "__main__":
    sys.exit(main())
