"""Compares the instructions of the plain path with two committed baselines.

The counts are absolute, so they are comparable on one version of the interpreter only, which the baseline names.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from .counting import count_instructions, run_subject

MORE_THAN_PREVIOUS = 1.03
"""How many times the previous count a change may bring a count to."""

MORE_THAN_ORIGIN = 1.08
"""The same, for all changes since the origin together."""

BASELINE = Path(__file__).with_name("plain_path.json")
SUBJECT = f"{__package__}.subjects.plain_path"


@dataclass(frozen=True)
class Baseline:
    """Committed counts: instructions per task.

    Attributes:
        interpreter: The version that ran when they were counted.
        origin: Before the first of all changes that have a budget together.
        previous: Before the present change.
    """

    interpreter: str
    origin: dict[str, float]
    previous: dict[str, float]

    @classmethod
    def read(cls, path: Path = BASELINE) -> Self | None:
        """Read the file, if there is one."""
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def write(self, path: Path = BASELINE) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self), indent=4) + "\n")


@dataclass(frozen=True)
class PlainPath:
    """The counts of today beside the baseline.

    Attributes:
        interpreter: The version that runs now.
        counts: Instructions per task.
        baseline: Committed; None where there is none.
    """

    interpreter: str
    counts: dict[str, float]
    baseline: Baseline | None

    @classmethod
    def measure(cls) -> Self:
        """Count; takes a quarter of a minute."""
        return cls(current_interpreter(), count_instructions(SUBJECT), Baseline.read())

    @property
    def is_comparable(self) -> bool:
        """Whether there is a baseline of this interpreter."""
        return self.baseline is not None and self.baseline.interpreter == self.interpreter

    @property
    def over_budget(self) -> list[str]:
        """The pieces whose count is above one of the limits; empty on an interpreter without a baseline."""
        if self.baseline is None or not self.is_comparable:
            return []
        return [
            name
            for name, count in self.counts.items()
            if count > MORE_THAN_PREVIOUS * self.baseline.previous[name]
            or count > MORE_THAN_ORIGIN * self.baseline.origin[name]
        ]

    def renewed(self) -> Baseline:
        """Return the baseline with the counts of today as the previous ones.

        The origin stays. A baseline of another interpreter stays as it is, and where there is none both are of today.
        """
        counts: dict[str, float] = {name: round(count) for name, count in self.counts.items()}
        if self.baseline is None:
            return Baseline(self.interpreter, counts, counts)
        return replace(self.baseline, previous=counts) if self.is_comparable else self.baseline

    def __str__(self) -> str:
        title = f"instructions per task of the plain path, {self.interpreter}"
        if self.baseline is None or not self.is_comparable:
            reason = f"the baseline is of {self.baseline.interpreter}" if self.baseline else "there is no baseline"
            lines = [f"{count:9.0f}  {name}" for name, count in self.counts.items()]
            return "\n".join([f"{title} (not judged: {reason})", *lines])
        limits = [f"+{100 * limit - 100:.0f} %" for limit in (MORE_THAN_PREVIOUS, MORE_THAN_ORIGIN)]
        lines = [f"{title} (limits: {limits[0]} and {limits[1]})"]
        lines.append(f"{'today':>9} {'previous':>9} {'change':>9} {'origin':>9} {'change':>9}")
        for name, count in self.counts.items():
            numbers = "".join(
                f" {then[name]:9.0f} {100 * count / then[name] - 100:+7.1f} %"
                for then in (self.baseline.previous, self.baseline.origin)
            )
            verdict = "OVER BUDGET" if name in self.over_budget else ""
            lines.append(f"{count:9.0f}{numbers}  {name:30}{verdict}".rstrip())
        return "\n".join(lines)


def current_interpreter() -> str:
    """Name the running interpreter: its version and its compiler, which change the counts."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"


def processor_time() -> str:
    """Measure the processor time of a task and describe it; it is reported and not judged."""
    times = run_subject(sys.executable, "-m", SUBJECT, "clock")
    return "processor time per task: " + ", ".join(f"{name} {value:.1f} us" for name, value in times.items())
