"""Starts of a shared pipeline that fail."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import FlowStep, StartError

from ..handlers import notes
from ..support import forked
from .handlers import Shot
from .pipeline import sharing


async def test_a_start_that_was_killed_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shot = Shot(tmp_path / "notes", 2, signal.SIGKILL)
    async with sharing(forked(FlowStep(shot, name="shot"), name="ocr")):
        assert len(notes(shot.path)) == 3
    warnings = [record.message for record in caplog.records if "flow ocr is started again" in record.message]
    assert len(warnings) == 2
    assert "was killed by SIGKILL before it was ready" in warnings[0]


async def test_a_start_that_has_failed_by_itself_is_not(tmp_path: Path) -> None:
    shot = Shot(tmp_path / "notes", 2, signal.SIGABRT)
    with pytest.raises(StartError, match="SIGABRT"):
        async with sharing(forked(FlowStep(shot, name="shot"))):
            pass
    assert len(notes(shot.path)) == 1
