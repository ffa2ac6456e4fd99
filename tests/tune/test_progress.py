"""What a session tells while it runs: a bar with the time left, or lines where there is no terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from fastapi_aqueduct.cli.tune.progress import Bar


def shown(is_terminal: bool) -> str:
    """Return what is shown of two measurements, without the codes of colors."""
    stream = io.StringIO()
    # Without colors a bar that has just begun is blank.
    console = Console(file=stream, force_terminal=is_terminal, width=120, color_system="standard")
    with Bar(console, 90.0) as bar:
        bar.doing("first: 1 thread, size 2")
        bar._progress.refresh()
        bar.expect(9.0)
        bar.doing("the flow with the recommended settings")
        bar._progress.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


def test_a_terminal_shows_a_bar_what_is_measured_and_the_time_left() -> None:
    text = shown(is_terminal=True)
    assert re.search(r"━{40} 1:(30|2\d) left first: 1 thread, size 2", text)
    assert re.search(r"━{40} 0:0\d left the flow with the recommended settings", text)


def test_without_a_terminal_each_measurement_is_a_line_with_the_time_left() -> None:
    first, last = shown(is_terminal=False).splitlines()
    assert re.fullmatch(r"first: 1 thread, size 2 \((90|8\d) s left\)", first)
    assert re.fullmatch(r"the flow with the recommended settings \(\d s left\)", last)
