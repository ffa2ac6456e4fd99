"""Where commands print: in color on a terminal, and plain text elsewhere or with NO_COLOR."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what this process and its children print to stderr, so that stdout has the output of the command only."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
