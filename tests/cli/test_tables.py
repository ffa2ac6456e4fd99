"""Tables show all their values, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from fastapi_aqueduct.cli.tables import fitted


def shown(width: int) -> list[str]:
    """Return the lines of a table of two rows, 37 columns wide."""
    console = Console(file=io.StringIO(), width=width)
    table = Table("worker", "ready after", "private", "device", title="the workers", box=None, pad_edge=False)
    table.add_row("0", "12.3 s", "1.25 GiB", "")
    table.add_row("1", "12.4 s", "1.26 GiB", "cuda:1")
    console.print(fitted(table, console))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_table_that_fits_is_a_table() -> None:
    lines = shown(37)
    assert lines[1:] == [
        "worker  ready after  private   device",
        "0       12.3 s       1.25 GiB",
        "1       12.4 s       1.26 GiB  cuda:1",
    ]


@pytest.mark.parametrize("width", [20, 36])
def test_a_table_that_does_not_fit_is_a_list(width: int) -> None:
    lines = shown(width)
    assert lines[:2] == ["the workers", "worker 0"]
    text = " ".join(" ".join(lines).split())
    assert text == (
        "the workers worker 0 ready after 12.3 s, private 1.25 GiB "
        "worker 1 ready after 12.4 s, private 1.26 GiB, device cuda:1"
    )
    assert all(len(line) <= width for line in lines)
