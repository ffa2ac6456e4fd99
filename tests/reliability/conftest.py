"""Fixtures of the tests of reliability, and the report of what they measured."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable

import pytest

Note = Callable[[str, str], None]

_figures: dict[str, str] = {}


@pytest.fixture
def note_figure() -> Note:
    """Take down a figure for the report at the end of the run."""

    def note_down(name: str, value: str) -> None:
        _figures[name] = value

    return note_down


@pytest.fixture
def seeded() -> random.Random:
    """Make random numbers from a seed that is shown when the test fails; the variable SEED sets it."""
    seed = int(os.environ.get("SEED", secrets.randbits(32)))
    print(f"SEED={seed}")
    return random.Random(seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if _figures:
        terminalreporter.section("reliability in figures")
        width = max(map(len, _figures))
        for name, value in _figures.items():
            terminalreporter.write_line(f"{name:<{width}}  {value}")
