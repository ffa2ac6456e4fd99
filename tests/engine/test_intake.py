"""Blocks that are filled from outside, as uploads are."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_aqueduct import ArenaFull, Flow, NotRunningError, Overloaded
from fastapi_aqueduct.engine.intake import IntakeCap

from .. import handlers
from ..handlers import Each, Job
from ..support import DEADLINE, blocks, eventually, running

MIB = 1 << 20
NO_LIMIT = IntakeCap(size=1 << 40)


async def test_what_was_written_is_a_read_only_view_that_travels_as_a_reference() -> None:
    async with running(Flow(Each(handlers.look_at_payload))) as flow:
        with await flow.reserve(100_000, 1.0) as intake:
            assert intake.room == 100_000
            for piece in (b"a" * 30_000, bytearray(b"b" * 30_000), memoryview(b"c" * 30_000)):
                intake.write(piece)
            assert (intake.received, intake.room) == (90_000, 10_000)
            view = intake.finish()
        assert view == b"a" * 30_000 + b"b" * 30_000 + b"c" * 30_000
        assert view.readonly
        task = await flow.process(Job(payload=view))
        assert (task.kind, task.length) == ("memoryview", 90_000)
        assert blocks(flow) == 1
        del view, task, intake, piece


async def test_the_room_that_was_not_needed_is_free_at_once() -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with await flow.reserve(MIB, 1.0) as intake:
            intake.write(b"x" * 100)
            view = intake.finish()
        assert flow.statistics().arena.used == 128
        del view, intake


async def test_more_than_there_is_room_for_is_refused_and_nothing_of_it_written() -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with await flow.reserve(10, 1.0) as intake:
            intake.write(b"12345")
            with pytest.raises(ValueError, match="11 bytes do not fit in a block of 10"):
                intake.write(b"123456")
            assert bytes(intake.finish()) == b"12345"
        del intake


async def test_an_empty_body_is_an_empty_view_and_holds_nothing() -> None:
    async with running(Flow(Each(handlers.look_at_payload))) as flow:
        with await flow.reserve(1000, 1.0) as intake:
            view = intake.finish()
        assert (bytes(view), flow.statistics().arena.used) == (b"", 0)
        assert (await flow.process(Job(payload=view))).length == 0


async def test_what_was_not_finished_is_free() -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with pytest.raises(ConnectionError):
            with await flow.reserve(MIB, 1.0) as intake:
                intake.write(b"x" * 1000)
                raise ConnectionError
        assert flow.statistics().arena.used == 0


async def test_an_upload_waits_for_room_and_gets_it_when_another_ends() -> None:
    async with running(Flow(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        with await flow.reserve(3 * MIB // 2, 1.0):
            with pytest.raises(ArenaFull):
                await flow.reserve(MIB, 0.1, NO_LIMIT)
            waiting = asyncio.create_task(flow.reserve(MIB, 60, NO_LIMIT))
            await asyncio.wait([waiting], timeout=0.1)  # it must not get what is not there; no event would tell
            assert not waiting.done()
        with await asyncio.wait_for(waiting, DEADLINE) as intake:
            assert intake.room == MIB


async def test_an_upload_waits_for_a_view_that_is_let_go() -> None:
    async with running(Flow(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        with await flow.reserve(3 * MIB // 2, 1.0) as intake:
            intake.write(b"x" * (3 * MIB // 2))
            kept = [intake.finish()]
        waiting = asyncio.create_task(flow.reserve(MIB, 60, NO_LIMIT))
        await asyncio.sleep(0)
        kept.clear()
        with await asyncio.wait_for(waiting, DEADLINE) as intake:
            assert intake.room == MIB


async def test_what_can_never_fit_is_refused_at_once() -> None:
    async with running(Flow(Each(handlers.pass_on), memory_limit=MIB)) as flow:
        with pytest.raises(ArenaFull):
            await asyncio.wait_for(flow.reserve(2 * MIB, 300), DEADLINE / 4)


async def test_uploads_that_arrive_together_may_have_half_of_the_arena() -> None:
    async with running(Flow(Each(handlers.pass_on), memory_limit=4 * MIB)) as flow:
        with await flow.reserve(3 * MIB, 1.0):  # alone, it may have more
            with pytest.raises(Overloaded, match="may be taken by them"):
                await flow.reserve(MIB // 2, 60)
        with await flow.reserve(MIB, 1.0), await flow.reserve(MIB, 1.0):
            with pytest.raises(Overloaded):
                await flow.reserve(1000, 60)
        assert flow.statistics().arena.used == 0


async def test_a_flow_that_does_not_run_gives_no_room() -> None:
    with pytest.raises(NotRunningError):
        await Flow(Each(handlers.pass_on)).reserve(10, 1.0)


async def test_uploads_that_are_cancelled_while_they_wait_leave_nothing() -> None:
    async with running(Flow(Each(handlers.pass_on), memory_limit=MIB)) as flow:
        with await flow.reserve(MIB, 1.0):
            waiting = [asyncio.create_task(flow.reserve(1000, 60, NO_LIMIT)) for _ in range(5)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)
        await eventually(lambda: flow.statistics().arena.used == 0)
