"""Starts of a shared pipeline that fail, and API processes that cannot join it."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, FlowStep, StartError
from fastapi_aqueduct.engine.memory.regions import GUESTS
from fastapi_aqueduct.engine.shared.client import RemoteEngine

from ..handlers import Each, Job, add_one, notes
from ..support import DEADLINE, forked
from .handlers import Shot
from .pipeline import LoopPipeline, sharing


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


async def test_where_no_region_is_free_an_api_process_is_refused_until_another_one_leaves() -> None:
    flows = [Flow(Each(add_one), name="ocr") for _ in range(GUESTS + 1)]
    pipeline = LoopPipeline(flows[0]._lifecycle.options)
    with contextlib.ExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow._lifecycle.built_by(lambda options: RemoteEngine(options, pipeline)))
        first, *others, last = flows
        for flow in (first, *others):
            await flow.start_async()
        with pytest.raises(StartError, match=f"flow ocr serves {GUESTS} API processes already"):
            await last.start_async()
        await first.stop()
        await last.start_async()
        assert (await last.process(Job(number=1), DEADLINE)).number == 2
        for flow in (*others, last):
            await flow.stop()
