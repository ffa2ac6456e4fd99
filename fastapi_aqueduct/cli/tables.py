"""Tables on the terminal. Where the terminal is too narrow for one, it becomes a list, so that no value is cut off."""

from __future__ import annotations

from rich.console import Console, ConsoleRenderable, Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 10_000


def fitted(table: Table, console: Console, indent: int = 0) -> ConsoleRenderable:
    """Return a table, or the list of its rows if it does not fit: the first cell of each, and below it the others.

    Args:
        table: The table.
        console: Where it is shown.
        indent: Columns that are left free before it.
    """
    options = console.options.update(max_width=_ANY_WIDTH)
    if Measurement.get(console, options, table).maximum + indent <= console.width:
        return table
    headers = [str(column.header) for column in table.columns]
    lines: list[ConsoleRenderable] = [Text(str(table.title))] if table.title else []
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        lines.append(Text(f"{headers[0]} {first}"))
        named = zip(headers[1:], map(str, others), strict=True)
        lines.append(Padding(Text(", ".join(f"{name} {value}" for name, value in named if value)), (0, 0, 0, 2)))
    return Group(*lines)
