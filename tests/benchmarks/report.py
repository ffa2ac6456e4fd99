"""What was measured, what was promised about it, and how that looks as a table."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Series:
    """The values of one quantity, one for each round.

    Attributes:
        name: Of the quantity.
        values: In the order of the rounds.
        digits: Decimal places to print.
    """

    name: str
    values: list[float]
    digits: int = 0

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)

    def over(self, other: Series, name: str) -> Series:
        """Divide by another series, round by round: what disturbed both in a round cancels out."""
        return Series(name, [one / two for one, two in zip(self.values, other.values, strict=True)], digits=2)

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
class Report:
    """The outcome of one benchmark.

    Attributes:
        title: What was measured, with its unit.
        notes: The conditions.
        rows: The quantities.
        promises: What is judged.
    """

    title: str
    notes: list[str]
    rows: list[Series]
    promises: list[Promise]

    @property
    def holds(self) -> bool:
        """Whether every promise is kept."""
        return all(promise.holds for promise in self.promises)

    def __str__(self) -> str:
        rounds = len(self.rows[0].values)
        head = [self.title, *(f"  {note}" for note in self.notes)]
        table = _table(["", f"median of {rounds}", "min", "max"], [row.cells() for row in self.rows])
        return "\n".join([*head, "", *table, "", *(str(promise) for promise in self.promises)])


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [_line(row, widths) for row in (header, *rows)]


def _line(cells: list[str], widths: list[int]) -> str:
    name, *numbers = zip(cells, widths, strict=True)
    return "  ".join(["", name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in numbers)])
