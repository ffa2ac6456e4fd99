"""What an API process requests of its pipeline process: other handlers, other numbers of workers, trials."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, NotRunningError, StartError, StepChanging
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.messages import pack_message, unpack_message
from fastapi_aqueduct.engine.shared.packed_handler import pack_handler
from fastapi_aqueduct.engine.shared.plan import make_plan
from fastapi_aqueduct.engine.shared.replacements import Replacement, Replacements
from fastapi_aqueduct.engine.shared.requests import (
    AnsweredPair,
    Done,
    Failed,
    Request,
    Requests,
)
from fastapi_aqueduct.engine.wire.failures import encode_error
from fastapi_aqueduct.engine.wire.frames import Kind, ProtocolError
from fastapi_aqueduct.exceptions import ConfigurationError

from ..handlers import Job
from ..support import DEADLINE, blocks, eventually, forked, outcome
from .handlers import BadModel, Times
from .pipeline import LoopPipeline, engine, sharing
from .support import connection


def make_flow(nprocs: int = 1, **fields: Any) -> Flow:
    return forked(FlowStep(Times(2, **fields), nprocs=nprocs, name="times"), name="ocr")


def job(number: int = 1, size: int = 8) -> Job:
    return Job(number=number, payload=np.full(size, number))


async def factor(flow: Flow) -> int:
    return int((await flow.process(job(), DEADLINE)).factor)


async def test_a_handler_that_one_process_puts_in_serves_all_of_them() -> None:
    first, second = make_flow(), make_flow()
    async with sharing(first, second):
        assert await factor(first) == await factor(second) == 2
        await first.steps["times"].replace(Times(3))
        assert await factor(first) == await factor(second) == 3
        await eventually(lambda: second.statistics().steps[0].version == 2)
        # A process that has not replaced it restarts what serves, and not what it has declared.
        before = (await second.process(job(), DEADLINE)).pid
        await second.steps["times"].restart()
        after = await first.process(job(), DEADLINE)
        assert after.factor == 3 and after.pid != before


async def test_the_next_pipeline_starts_with_the_last_handlers() -> None:
    first, second, third = make_flow(), make_flow(), make_flow()
    async with sharing(first, second) as pipeline:
        await first.steps["times"].replace(Times(5))
        stack = third._lifecycle.built_by(lambda options: RemoteEngine(options, pipeline))
        with stack:
            async with third:
                for flow in (first, second, third):  # also one that came later
                    replacements = engine(flow).replacements
                    await eventually(lambda replacements=replacements: replacements._by_step)  # type: ignore[misc]
                    plan = replacements.apply(make_plan(flow._lifecycle.options))
                    assert plan.versions == [2]
                    assert pickle.loads(plan.programs[0]).handler == Times(5)


async def test_a_pipeline_that_was_started_anew_as_declared_gets_the_last_handlers_again() -> None:
    """As with `serve`, which knows its own code only: each process asks for it, and it is put in once."""
    first, second = make_flow(), make_flow()
    async with sharing(first, second):
        replacement = Replacement(0, 3, pack_handler(first._lifecycle.options, 0, Times(7)))
        pipeline = engine(first)._search._rendezvous
        assert isinstance(pipeline, LoopPipeline)
        pool = pipeline.engine.dispatcher.stages[0].pool
        asking = [engine(flow)._requests.call("restore", replacement) for flow in (first, second)]
        await asyncio.gather(*asking)
        assert pool.spec.version == 2
        assert await factor(first) == await factor(second) == 7
        await engine(second)._requests.call("restore", replacement)
        assert pool.spec.version == 2
        assert not engine(first).replacements.newer_than([2])
        engine(first).replacements.note(replacement.pack())
        assert [newer.version for newer in engine(first).replacements.newer_than([2])] == [3]


async def test_errors_come_back_as_themselves() -> None:
    flow = make_flow()
    async with sharing(flow):
        with pytest.raises(StartError, match="failed in on_start: BadModel: no model at x") as caught:
            await flow.steps["times"].replace(Times(3, fault="x"))
        assert isinstance(caught.value.__cause__, BadModel)
        assert caught.value.step == "times"
        assert await factor(flow) == 2
        with pytest.raises(ConfigurationError, match="can have 1 to"):
            await flow.steps["times"].scale(10_000)


async def test_a_second_change_waits_for_no_first_one_and_a_cancellation_undoes_that(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    first, second = make_flow(), make_flow()
    async with sharing(first, second) as pipeline:
        hold.touch()
        replacing = asyncio.create_task(first.steps["times"].replace(Times(3, hold=hold)))
        pool = pipeline.engine.dispatcher.stages[0].pool
        await eventually(lambda: pool.change is not None)
        with pytest.raises(StepChanging, match="times of flow ocr is being replaced"):
            await second.steps["times"].scale(2)
        replacing.cancel()
        await asyncio.wait([replacing])
        hold.unlink()
        await eventually(lambda: pool.change is None)
        assert await factor(second) == 2 and pool.spec.version == 1


async def test_a_step_is_scaled_from_any_process() -> None:
    first, second = make_flow(2), make_flow(2)  # as many as there may be on one core
    async with sharing(first, second):
        await first.steps["times"].scale(1)
        await eventually(lambda: second.statistics().steps[0].nprocs == 1)
        await second.steps["times"].scale(2)
        await eventually(lambda: first.statistics().steps[0].ready_workers == 2)


async def test_a_canary_reports_and_is_promoted_for_all() -> None:
    first, second = make_flow(), make_flow()
    async with sharing(first, second):
        async with first.steps["times"].canary(Times(3), share=0.5) as canary:
            assert canary.report().candidate.tasks == 0
            factors = [await factor(flow) for flow in (first, second) * 10]
            assert set(factors) == {2, 3}
            await eventually(lambda: canary.report().candidate.tasks == factors.count(3))
            await eventually(lambda: canary.report().baseline.tasks == factors.count(2))
            with pytest.raises(StepChanging):
                await second.steps["times"].restart()
            await canary.promote()
            assert await factor(first) == await factor(second) == 3
        assert canary.report().candidate.tasks == factors.count(3)
        await eventually(lambda: engine(second).replacements._by_step)


async def test_a_trial_ends_when_its_process_goes_away() -> None:
    first, second = make_flow(), make_flow()
    async with sharing(first) as pipeline:
        pool = pipeline.engine.dispatcher.stages[0].pool
        with second._lifecycle.built_by(lambda options: RemoteEngine(options, pipeline)):
            await second.start_async()
            canary = second.steps["times"].canary(Times(3), share=0.5)
            await canary.__aenter__()
            assert pool.change is not None
            engine(second)._search.end()  # else it would look for a pipeline again
            engine(second)._on_end("closed")  # for the pipeline it is as if the process was killed
            await eventually(lambda: pool.change is None)
            await eventually(lambda: not pool.beside)
            await canary.__aexit__(None, None, None)
            await second.stop()
        assert await factor(first) == 2


async def test_a_shadow_shows_both_answers_and_their_memory_comes_back() -> None:
    flow = make_flow()
    async with sharing(flow):
        async with flow.steps["times"].shadow(Times(3)) as shadow:
            pairs = []
            for number in (1, 2, 13):
                task = job(number, 1 << 17)
                await outcome(flow.process(task, DEADLINE))
                del task
                # Before the next task: a shadow that is two tasks behind skips it.
                pairs.append(await asyncio.wait_for(anext(shadow), DEADLINE))
            for pair, number in zip(pairs, (1, 2), strict=False):
                assert pair.baseline.result[-1] == 2 * number and pair.candidate.result[-1] == 3 * number
            assert isinstance(pairs[2].baseline, BadModel) and isinstance(pairs[2].candidate, BadModel)
            assert blocks(flow) > 0
            del pairs, pair
            await eventually(lambda: blocks(flow) == 0)
            # A reader that gives up loses nothing that is there.
            reader = asyncio.ensure_future(anext(shadow))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
            await flow.process(job(4), DEADLINE)
            pair = await asyncio.wait_for(anext(shadow), DEADLINE)
            assert pair.candidate.result[0] == 12
            del pair
            waiting = asyncio.ensure_future(anext(shadow))
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, DEADLINE)
        assert shadow.report().candidate.tasks == 4
        await eventually(lambda: blocks(flow) == 0)


# The messages


async def test_the_end_of_the_connection_ends_requests() -> None:
    requests = Requests("ocr", lambda pair: None)
    with pytest.raises(NotRunningError, match="has no pipeline process now"):
        await requests.call("resize", 0, 2)
    with connection() as (client, _):
        requests.begin(client.post)
        waiting = asyncio.create_task(requests.call("resize", 0, 2))
        await asyncio.sleep(0)
        requests.end("it has ended")
        with pytest.raises(NotRunningError, match="flow ocr ended: it has ended"):
            await waiting


async def test_a_cancelled_request_is_withdrawn_and_its_result_dropped() -> None:
    seen: list[Request] = []
    requests = Requests("ocr", lambda pair: None)
    with connection() as (client, server):
        server.receive = lambda kind, payload: seen.append(unpack_message(payload, Request))
        requests.begin(client.post)
        waiting = asyncio.create_task(requests.call("resize", 0, 2))
        await eventually(lambda: len(seen) == 1)
        waiting.cancel()
        await eventually(lambda: len(seen) == 2)
        assert seen == [Request(1, "resize", (0, 2)), Request(1, "cancel", ())]
        requests.on_result(pack_message(Done(1, None)))
        requests.on_result(pack_message(Failed(2, encode_error(ValueError("x")))))
        assert not requests._waiting


async def test_an_unreadable_result_leaves_the_request_to_the_end_of_the_connection() -> None:
    """Its caller would wait for ever if it was removed before."""
    requests = Requests("ocr", lambda pair: None)
    with connection() as (client, _):
        requests.begin(client.post)
        waiting = asyncio.create_task(requests.call("resize", 0, 2))
        await asyncio.sleep(0)
        for garbled in (Failed(1, b"\x80"), Failed(1, encode_error(ValueError())[:-9]), Done([], 1)):  # type: ignore[arg-type]
            with pytest.raises(ProtocolError):
                requests.on_result(pack_message(garbled))
        requests.end("it has ended")
        with pytest.raises(NotRunningError):
            await asyncio.wait_for(waiting, DEADLINE)


@pytest.mark.parametrize("payload", [b"", pack_message(Done(1, 2)), b"\x80\x05N."])
def test_what_is_no_request_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_message(payload, Request)
    with pytest.raises(ProtocolError):
        Replacements(1).note(payload)
    refuse: Callable[[bytes], Any] = lambda payload: unpack_message(payload, AnsweredPair)  # noqa: E731
    with pytest.raises(ProtocolError):
        refuse(payload)
    assert Kind.CALL
