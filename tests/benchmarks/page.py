"""The page of the documentation that shows what was measured."""

from __future__ import annotations

import re
from pathlib import Path

from .plot import Bars, Plot
from .report import Report, Table

DOCS = Path(__file__).parents[2] / "docs"
PATH = DOCS / "benchmarks.md"
PICTURES = DOCS / "benchmarks"
OWN = "fastapi_aqueduct"

INTRODUCTION = """# Benchmarks

Written by `make bench`, which measures all sections, with the packages in an environment of their own;
`make bench ONLY=noop` renews one section. All subjects of a comparison run in the same run, in short interleaved
rounds, each in processes of its own, under the same client ([wrk](https://github.com/wg/wrk) for HTTP); the other
subjects are suspended meanwhile. A number is the median of the rounds, with the smallest and the largest beside it; a
ratio is the median of the ratios of each round. Read the ratios: the numbers are those of one machine.

Where the system allows it (for root), no processor falls asleep during a measurement (`/dev/cpu_dma_latency`): on a
virtual machine a sleeping processor serves the neighbours, and a wake-up waits for it. The last line of each section
says whether this was so. Two sections also measure without this setting: their names end in "asleep".
"""


class Page:
    """The sections of the page, by name; one that is not measured anew stays as it is.

    Args:
        names: Of the sections, in their order.
        surroundings: Where the present run takes place.
    """

    def __init__(self, names: list[str], surroundings: str) -> None:
        self._names = names
        self._surroundings = surroundings
        text = PATH.read_text() if PATH.exists() else ""
        parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
        self._sections = dict(zip(parts[::2], parts[1::2], strict=True))

    def put(self, name: str, report: Report, weather: str) -> None:
        """Replace a section and its pictures, and save the page.

        Args:
            name: Of the section.
            report: What was measured.
            weather: How the machine was meanwhile.
        """
        PICTURES.mkdir(exist_ok=True)
        for old in PICTURES.glob(f"{name}-[0-9].svg"):
            old.unlink()
        footer = f"{weather}. {self._surroundings}"
        self._sections[name] = _section(report, self._draw(name, report), footer)
        order = [known for known in self._names if known in self._sections]
        order += [other for other in self._sections if other not in self._names]
        sections = [f"## {known}\n\n{self._sections[known].strip()}\n" for known in order]
        PATH.write_text("\n".join([INTRODUCTION, *sections]))

    def _draw(self, name: str, report: Report) -> list[str]:
        """Save the pictures of a report and return how the page shows them."""
        pictures: list[Bars | Plot] = [
            *(_bars(name, table) for table in report.tables if table.references),
            *report.plots,
        ]
        for number, picture in enumerate(pictures, 1):
            picture.save(PICTURES / f"{name}-{number}.svg")
        return [
            f"![{picture.title}]({PICTURES.name}/{name}-{number}.svg)" for number, picture in enumerate(pictures, 1)
        ]


def _bars(name: str, table: Table) -> Bars:
    return Bars(
        title=name,
        label=table.rows[0].unit,
        values={row.name: row.values for row in table.rows},
        own=[row.name for row in table.rows if row.name.startswith(OWN)],
        digits=table.rows[0].digits,
    )


def _section(report: Report, pictures: list[str], footer: str) -> str:
    _, _, what = report.title.partition(": ")
    notes = "".join(f"\n* {_upper(note)}." for note in report.notes)
    tables = [_markdown(table) for table in report.tables]
    promises = "\n".join(f"* {promise}" for promise in report.promises)
    parts = [f"{_upper(what)}.\n{notes}", *tables, *pictures, promises, f"*{footer}*"]
    return "\n\n".join(part for part in parts if part)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _markdown(table: Table) -> str:
    header, *rows = table.lines()
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
