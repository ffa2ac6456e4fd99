"""What was measured, what was promised about it, and how that looks as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plot import Plot


@dataclass(frozen=True)
class Series:
    """The values of one quantity, one for each round.

    Attributes:
        name: Of the quantity.
        values: In the order of the rounds.
        digits: Decimal places to print.
        unit: What is counted, where a report has several quantities; rows of one unit make a table.
    """

    name: str
    values: list[float]
    digits: int = 0
    unit: str = ""

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)

    def over(self, other: Series, name: str) -> Series:
        """Divide by another series, round by round: what disturbed both in a round cancels out."""
        pairs = zip(self.values, other.values, strict=True)
        return Series(name, [one / two if two else math.inf for one, two in pairs], digits=2)

    def minus(self, other: Series, name: str) -> Series:
        """Subtract another series, round by round."""
        differences = [one - two for one, two in zip(self.values, other.values, strict=True)]
        return Series(name, differences, digits=2, unit=self.unit)

    def cells(self) -> list[str]:
        """Return its row of a table: name, median, minimum, maximum."""
        numbers = (self.median, min(self.values), max(self.values))
        return [self.name, *(f"{number:,.{self.digits}f}" for number in numbers)]


@dataclass(frozen=True)
class Promise:
    """A limit that the median of a series keeps.

    Attributes:
        series: What is judged.
        limit: What it must not go beyond.
        is_minimum: Whether it must not be below the limit; else not above.
    """

    series: Series
    limit: float
    is_minimum: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        value = self.series.median
        return value >= self.limit if self.is_minimum else value <= self.limit

    def __str__(self) -> str:
        name, value, low, high = self.series.cells()
        verdict = "PASS" if self.holds else "MISS"
        wanted = "at least" if self.is_minimum else "at most"
        return f"{verdict}  {name}: {value} ({low} to {high}), wanted {wanted} {self.limit:g}"


@dataclass(frozen=True)
class Table:
    """Quantities of one unit.

    Attributes:
        rows: The quantities.
        references: Names of rows that the others are divided by, a column for each.
    """

    rows: list[Series]
    references: list[str]

    def lines(self) -> list[list[str]]:
        """Return the cells, the header first."""
        bases = [row for name in self.references for row in self.rows if row.name == name]
        header = [self.rows[0].unit, f"median of {len(self.rows[0].values)}", "min", "max"]
        return [
            [*header, *(f"/ {base.name}" for base in bases)],
            *([*row.cells(), *(f"{row.over(base, '').median:.2f}" for base in bases)] for row in self.rows),
        ]

    def __str__(self) -> str:
        lines = self.lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_padded(cells, widths) for cells in lines)


@dataclass(frozen=True)
class Report:
    """The outcome of one benchmark.

    Attributes:
        title: What was measured, with its unit.
        notes: The conditions.
        rows: The quantities.
        promises: What is judged.
        references: Names of rows that the others are compared with.
        plots: Pictures of it.
    """

    title: str
    notes: list[str]
    rows: list[Series]
    promises: list[Promise]
    references: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise is kept."""
        return all(promise.holds for promise in self.promises)

    @property
    def tables(self) -> list[Table]:
        """The rows, sorted by unit."""
        return [Table(list(rows), self.references) for _, rows in groupby(self.rows, attrgetter("unit"))]

    def __str__(self) -> str:
        parts = ["\n".join([self.title, *(f"  {note}" for note in self.notes)]), *map(str, self.tables)]
        return "\n\n".join([*parts, "\n".join(map(str, self.promises))])


def _padded(cells: Iterable[str], widths: Iterable[int]) -> str:
    name, *numbers = zip(cells, widths, strict=True)
    return "  ".join(["", name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in numbers)])
