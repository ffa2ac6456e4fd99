"""Directories for the tests of shared pipelines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Make a directory whose path leaves room for that of a socket (unix(7)): pytest's own contains the test's name."""
    with tempfile.TemporaryDirectory(prefix="aqueduct-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)
