"""What reports need once."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.cli.tune.plots import limits_plot


@pytest.fixture(scope="session")
def drawn() -> None:
    """Let matplotlib open its fonts, which it keeps open."""
    limits_plot({"one": 1.0, "two": 2.0}, "one")
