"""Fixtures of the tests of the HTTP side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forget_log_records(leaves_nothing_behind: None, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Release logged exceptions: their tracebacks hold the flow, and so its memory."""
    yield
    caplog.get_records("call").clear()
