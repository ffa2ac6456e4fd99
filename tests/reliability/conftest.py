"""Fixtures of the tests of reliability, and the report of what they measured."""

from __future__ import annotations

import os
import random
import secrets
import sys
from collections.abc import Callable

import pytest

from fastapi_aqueduct.engine import restart
from fastapi_aqueduct.engine.restart import RestartPolicy

Note = Callable[[str, str], None]

_figures: dict[str, str] = {}


@pytest.fixture
def note_figure() -> Note:
    """Take down a figure for the report at the end of the run."""

    def note_down(name: str, value: str) -> None:
        _figures[name] = value

    return note_down


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace dead workers almost at once, however many die.

    The policy has tests of its own; here it would have a flow rest for most of a test that kills on purpose.
    """
    monkeypatch.setattr(restart, "MAX_DEATHS", sys.maxsize)
    monkeypatch.setattr(RestartPolicy.__init__, "__defaults__", (0.02, 0.1, 60.0))


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
