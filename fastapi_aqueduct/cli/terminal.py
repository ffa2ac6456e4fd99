"""Where commands print: in color on a terminal, and plain text elsewhere or with NO_COLOR."""

from __future__ import annotations

import sys

from rich.console import Console

PLAIN_WIDTH = 120
"""Columns where there is no terminal: nothing tells how wide a file is shown."""


def make_console(to_stderr: bool = False) -> Console:
    """Return the console of a command.

    Args:
        to_stderr: Whether it prints to stderr, as for progress beside output that a program reads.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PLAIN_WIDTH)
