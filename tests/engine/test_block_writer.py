"""Blocks that are filled from outside, as uploads are."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_aqueduct import ArenaFull, Flow, NotRunningError, Overloaded
from fastapi_aqueduct.engine.memory.banker import NO_CAP, ArrivalCap
from fastapi_aqueduct.engine.memory.block_writer import BlockWriter
from fastapi_aqueduct.engine.memory.mapping import PAGE

from .. import handlers
from ..asgi.support import taken
from ..handlers import Each, Job
from ..support import DEADLINE, blocks, engine_of, eventually, forked, running

MIB = 1 << 20
NO_LIMIT = ArrivalCap(size=1 << 40)


def receive(flow: Flow, size: int | None, wait_timeout: float = 5.0, cap: ArrivalCap = NO_LIMIT) -> BlockWriter:
    """Expect one block; of unknown size it may have 64 MiB."""
    intake = flow.receive(size, 64 * MIB, wait_timeout, cap)
    intake.begin()
    return intake


async def test_what_was_written_is_a_read_only_view_that_travels_as_a_reference() -> None:
    async with running(forked(Each(handlers.look_at_payload))) as flow:
        with receive(flow, 100_000) as intake:
            for piece in (b"a" * 30_000, bytearray(b"b" * 30_000), memoryview(b"c" * 30_000)):
                assert intake.try_write(piece)
            assert (intake.received, intake.arrival.left) == (90_000, 10_000)
            view = intake.finish()
        assert view == b"a" * 30_000 + b"b" * 30_000 + b"c" * 30_000
        assert view.readonly
        task = await flow.process(Job(payload=view))
        assert (task.kind, task.length) == ("memoryview", 90_000)
        assert blocks(flow) == 1
        del view, task, intake, piece


async def test_what_is_announced_takes_no_memory() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        begun = [receive(flow, MIB) for _ in range(100)]
        assert all(intake.try_write(b"x") for intake in begun[:50])
        assert flow.statistics().arena.receiving == 50
        with receive(flow, 3 * MIB // 2) as intake:
            assert intake.try_write(b"y" * (3 * MIB // 2))
            view = intake.finish()
        for intake in begun:
            intake.close()
        assert flow.statistics().arena.used == 3 * MIB // 2
        del view, intake, begun


async def test_the_room_that_was_not_needed_is_free_at_once() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        with receive(flow, MIB) as intake:
            intake.try_write(b"x" * 100)
            view = intake.finish()
        assert flow.statistics().arena.used == 128
        del view, intake


async def test_an_empty_body_is_an_empty_view_and_holds_nothing() -> None:
    async with running(forked(Each(handlers.look_at_payload))) as flow:
        with receive(flow, 1000) as intake:
            view = intake.finish()
        assert (bytes(view), flow.statistics().arena.used) == (b"", 0)
        assert (await flow.process(Job(payload=view))).length == 0


async def test_what_was_not_finished_is_free() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        with pytest.raises(ConnectionError):
            with receive(flow, MIB) as intake:
                intake.try_write(b"x" * 1000)
                raise ConnectionError
        assert flow.statistics().arena.used == 0


async def test_an_upload_waits_for_room_and_gets_it_when_another_ends() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        with receive(flow, 3 * MIB // 2) as first:
            assert first.try_write(b"x" * (3 * MIB // 2))
            with receive(flow, MIB, 0.1) as second:
                assert not second.try_write(b"y" * MIB)
                with pytest.raises(ArenaFull):
                    await second.write(b"y" * MIB)
            third = receive(flow, MIB)
            waiting = asyncio.create_task(third.write(b"z" * MIB))
            await asyncio.wait([waiting], timeout=0.1)  # it must not get what is not there; no event would tell
            assert not waiting.done()
        await asyncio.wait_for(waiting, DEADLINE)
        third.close()


async def test_an_upload_waits_for_a_view_that_is_let_go() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        with receive(flow, 3 * MIB // 2) as intake:
            intake.try_write(b"x" * (3 * MIB // 2))
            kept = [intake.finish()]
        with receive(flow, MIB, 60) as intake:
            waiting = asyncio.create_task(intake.write(b"y" * MIB))
            await asyncio.sleep(0)
            kept.clear()
            await asyncio.wait_for(waiting, DEADLINE)
        del intake


async def test_uploads_that_arrive_together_may_have_half_of_the_arena() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=4 * MIB)) as flow:
        with receive(flow, 3 * MIB + 1, cap=NO_CAP) as first:  # alone, it may have more
            assert first.try_write(b"x" * 3 * MIB)
            with receive(flow, 2 * MIB, 0.05, NO_CAP) as second:
                with pytest.raises(Overloaded, match="may be taken by them"):
                    await second.write(b"y")
            assert first.try_write(b"x")
        assert flow.statistics().arena.used == 0


async def test_a_flow_that_does_not_run_gives_no_room() -> None:
    with pytest.raises(NotRunningError):
        forked(Each(handlers.pass_on)).receive(10, 10, 1.0)


async def test_uploads_that_are_cancelled_while_they_wait_leave_nothing() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=MIB)) as flow:
        with receive(flow, MIB) as whole:
            whole.try_write(b"x" * MIB)
            others = [receive(flow, 1000, 60) for _ in range(5)]
            waiting = [asyncio.create_task(other.write(b"y" * 1000)) for other in others]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert all(task.cancelled() for task in waiting)
            for other in others:
                other.close()
        assert flow.statistics().arena.receiving == 0
        await eventually(lambda: flow.statistics().arena.used == 0)


# Blocks that grow


def crowd(flow: Flow) -> list[BlockWriter]:
    """Let bodies announce so much that blocks get no more addresses than they need."""
    begun = [receive(flow, None) for _ in range(16)]
    assert all(intake.try_write(b"x") for intake in begun)
    return begun


async def test_a_block_grows_where_it_is_or_moves() -> None:
    """In pieces, between which others have their turn."""
    content = bytes(range(256)) * 4096 * 2
    async with running(forked(Each(handlers.pass_on), memory_limit=16 * MIB)) as flow:
        others = crowd(flow)
        with receive(flow, None) as intake, receive(flow, None) as behind:
            assert intake.try_write(content[:MIB])
            assert behind.try_write(b"x")
            assert not intake.try_write(content[MIB:] + b"end"), "the block behind it is in the way"
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counter = asyncio.create_task(count())
            await intake.write(content[MIB:] + b"end")
            counter.cancel()
            assert turns
            assert taken(flow) == 64 * len([*others, behind]) + len(content) + 64
            view = intake.finish()
            assert bytes(view) == content + b"end"
            del view
        for other in others:
            other.close()
        assert taken(flow) == 0


async def test_a_block_moves_also_when_no_memory_is_left() -> None:
    """It takes what it leaves behind: else the body that is nearest to its end could wait for itself."""
    async with running(forked(Each(handlers.pass_on), memory_limit=16 * MIB)) as flow:
        others = crowd(flow)
        with receive(flow, None) as intake, receive(flow, None) as behind:
            assert intake.try_write(b"a" * 7 * MIB)
            assert behind.try_write(b"x")
            engine = engine_of(flow)
            arena = engine.memory.arena
            task = arena.allocate(arena.available() - MIB - 64 * PAGE)
            await intake.write(b"b" * MIB)
            assert taken(flow) <= 16 * MIB
            arena.free(task.offset)
            view = intake.finish()
            assert bytes(view[-MIB - 1 :]) == b"a" + b"b" * MIB
            del view
        for other in others:
            other.close()


async def test_a_move_that_is_cancelled_leaves_nothing() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=16 * MIB)) as flow:
        others = crowd(flow)
        before = taken(flow)
        with receive(flow, None) as intake, receive(flow, None) as behind:
            assert intake.try_write(b"x" * 3 * MIB)
            assert behind.try_write(b"x")
            move = asyncio.create_task(intake.write(b"x" * 4 * MIB))
            await asyncio.sleep(0)
            move.cancel()
            await asyncio.wait([move])
            assert move.cancelled()
        assert taken(flow) == before
        for other in others:
            other.close()
