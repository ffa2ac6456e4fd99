"""Batches that run out of memory run again in halves, and later ones are no larger than what has fitted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.child.batch_ceiling import FIRST_PROBE, LAST_PROBE, BatchCeiling, is_out_of_memory
from fastapi_aqueduct.engine.wire.ceiling_report import LONGEST_REASON, CeilingReport
from fastapi_aqueduct.engine.wire.frames import ProtocolError

from ..handlers import Job
from ..support import eventually, forked, outcome, running
from .limited import Limited, Onnx

# The rule


def run(ceiling: BatchCeiling, batch: int, fits: int) -> list[int]:
    """Run a batch as a worker does; return the sizes of its calls, negative ones for those that failed."""
    calls: list[int] = []
    left = batch
    while left:
        size = min(left, ceiling.most or batch)
        if size > max(fits, 1):
            calls.append(-size)
            ceiling.note_shortage(size)
            continue
        calls.append(size)
        left -= size
        if ceiling.most:
            ceiling.note_success(size)
    return calls


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(1, 300), st.integers(1, 200))
def test_a_call_that_fails_is_followed_by_smaller_ones_and_soon_none_fails(batch: int, fits: int, batches: int) -> None:
    ceiling = BatchCeiling()
    calls = [size for _ in range(batches) for size in run(ceiling, batch, fits)]
    assert sum(size for size in calls if size > 0) == batch * batches
    failed = [-size for size in calls if size < 0]
    falls = batch.bit_length()
    assert len(failed) <= falls + len(calls) / FIRST_PROBE * 1.1
    if batch <= fits:
        assert not failed and ceiling.most == 0
    else:
        assert fits / 2 <= max(size for size in calls if size > 0) or fits == 1
        assert 0 < ceiling.most <= max(fits, 1) + max(1, fits // 8)


def test_a_ceiling_rises_in_small_steps_and_back_to_what_was_proven() -> None:
    ceiling = BatchCeiling()
    sizes = [size for _ in range(1500) for size in run(ceiling, 16, 11)]
    rising = list(dict.fromkeys(sizes))
    assert rising[:6] == [-16, 8, 9, 7, 10, 6]
    failed = [index for index, size in enumerate(sizes) if size == -12]
    assert ceiling.most in (11, 12) and 1 <= len(failed) < 8
    gaps = [second - first for first, second in zip(failed, failed[1:], strict=False)]
    assert all(later > 1.5 * earlier for earlier, later in zip(gaps, gaps[1:], strict=False))


def test_tries_that_fail_become_rarer_up_to_a_limit_and_never_stop() -> None:
    ceiling = BatchCeiling()
    failed = [size for _ in range(40_000) for size in run(ceiling, 8, 6) if size < 0]
    assert 10 < len(failed) < 30
    assert ceiling._needed == LAST_PROBE


def test_a_ceiling_goes_when_the_memory_is_back() -> None:
    ceiling = BatchCeiling()
    for _ in range(10):
        run(ceiling, 32, 4)
    assert 0 < ceiling.most <= 4
    for _ in range(40 * FIRST_PROBE):
        run(ceiling, 32, 32)
    assert ceiling.most == 0 and run(ceiling, 32, 32) == [32]


def test_a_shortage_after_the_ceiling_has_gone_halves_the_batch_again() -> None:
    """What was proven on the way up is not remembered: the memory may be taken by something else now."""
    ceiling = BatchCeiling()
    run(ceiling, 32, 16)
    while ceiling.most:
        run(ceiling, 32, 32)
    assert run(ceiling, 32, 16) == [-32, 16, 16]


def test_smaller_batches_say_nothing_about_larger_ones() -> None:
    ceiling = BatchCeiling()
    run(ceiling, 16, 8)
    for _ in range(10 * FIRST_PROBE):
        run(ceiling, 3, 8)
    assert ceiling.most == 8


class _Torch(RuntimeError):
    """Has the name of PyTorch's exception, which is not installed."""


_Torch.__module__, _Torch.__name__ = "torch", "OutOfMemoryError"


class _OfTorch(_Torch):
    pass


def caused_by(error: BaseException) -> BaseException:
    outer = ValueError("the model has failed")
    outer.__cause__ = error
    return outer


def caused_by_itself(error: BaseException) -> BaseException:
    error.__cause__ = error  # as after `raise error from error`
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError("axis"), False),
        (_Torch("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (_OfTorch("out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory, says another library"), False),
        (caused_by(MemoryError()), True),
        (caused_by(ValueError()), False),
        (caused_by_itself(ValueError()), False),
        (caused_by(caused_by_itself(MemoryError())), True),
        (ValueError("Failed to allocate memory"), False),
    ],
)
def test_a_shortage_is_told_by_the_name_of_the_exception(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.text())
def test_a_report_comes_out_as_it_went_in(most: int, size: int, reason: str) -> None:
    report = CeilingReport.unpack(CeilingReport(most, size, reason).pack())
    assert report[:2] == (most, size)
    if len(reason.encode()) <= LONGEST_REASON:
        assert report.reason == reason


@given(st.binary(max_size=7))
def test_a_report_that_is_cut_off_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="the report of a batch ceiling"):
        CeilingReport.unpack(payload)


# In a flow that runs


def jobs(count: int, **acts: str) -> list[Job]:
    return [Job(number=number, act=acts.get(f"of{number}", ""), runs=0, notes=[]) for number in range(count)]


def limited(fits: int = 2, batch_size: int = 8, error: Callable[[], BaseException] = MemoryError, **o: Any) -> FlowStep:
    return FlowStep(Limited(fits, error), batch_size=batch_size, batch_timeout=10.0, name="embed", **o)


async def test_a_batch_runs_again_in_halves_from_untouched_copies(caplog: pytest.LogCaptureFixture) -> None:
    async with running(forked(limited())) as flow:
        first = jobs(8)
        await asyncio.gather(*(flow.process(job, 60) for job in first))
        assert first[-1].calls == [8, 4, 2, 2, 2, 2]
        assert {(job.runs, len(job.notes), job.together) for job in first} == {(1, 1, 2)}
        assert {job.left for job in first} == {0}  # what a call has allocated that failed was free in the next one
        second = jobs(8)
        await asyncio.gather(*(flow.process(job, 60) for job in second))
        assert second[-1].calls[6:] == [2, 2, 2, 2]  # remembered
        await eventually(lambda: flow.statistics().steps[0].batch_ceiling == 2)
        assert flow.statistics().steps[0].workers[0].batch_ceiling == 2
        messages = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
        assert len(messages) == 2
        assert "a worker of embed in flow flow (pid " in messages[0]
        assert "with a batch of 8 tasks (MemoryError: ): its calls get 4 at most for now" in messages[0]
        for _ in range(FIRST_PROBE // 4):
            again = jobs(8)
            await asyncio.gather(*(flow.process(job, 60) for job in again))
        assert again[-1].calls.count(3) == 1 and again[-1].calls[-1] <= 2  # one larger call was tried


async def test_a_bad_input_within_a_half_fails_alone() -> None:
    async with running(forked(limited(fits=4))) as flow:
        found = jobs(8, of5="raise")
        outcomes = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in found))
        assert [type(end) for end in outcomes if not isinstance(end, Job)] == [ValueError]
        assert [job.together for job in found if job.number != 5] == [4, 4, 4, 4, 1, 1, 1]


async def test_a_task_that_does_not_fit_alone_fails() -> None:
    async with running(forked(limited(fits=0))) as flow:
        outcomes = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in jobs(8)))
        assert {type(error) for error in outcomes} == {MemoryError}
        await eventually(lambda: flow.statistics().steps[0].batch_ceiling == 1)


async def test_nothing_runs_twice_where_it_must_not_but_the_ceiling_is_remembered() -> None:
    async with running(forked(limited(max_retries=0))) as flow:
        for failed in (8, 4, 0):  # a call of 8; one of 4 and two of 2; four of 2
            outcomes = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in jobs(8)))
            assert [type(end) for end in outcomes if not isinstance(end, Job)] == [MemoryError] * failed


async def test_a_batch_that_has_emitted_does_not_run_again() -> None:
    async with running(forked(limited(batch_size=4))) as flow:

        async def stream() -> list[str]:
            return [item async for item in flow.stream(Job(number=9, act="emit", runs=0, notes=[]), timeout_sec=60)]

        outcomes = await asyncio.gather(outcome(stream()), *(outcome(flow.process(job, 60)) for job in jobs(3)))
        assert {type(error) for error in outcomes} == {MemoryError}


async def test_a_batch_with_a_field_shared_for_writing_does_not_run_again() -> None:
    async with running(forked(limited(batch_size=4))) as flow:
        writer, *others = jobs(4)
        writer.payload = bytes(100_000)
        writer.share_value("payload")
        outcomes = await asyncio.gather(*(outcome(flow.process(job, 60)) for job in (writer, *others)))
        assert {type(error) for error in outcomes} == {MemoryError}
        again = jobs(4)
        await asyncio.gather(*(flow.process(job, 60) for job in again))
        assert {job.left for job in again} == {0}  # what the call has allocated that failed
        del writer, outcomes  # errors have frames with their tasks


async def test_a_real_shortage_of_onnx_runtime(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with running(forked(FlowStep(Onnx(), batch_size=4, batch_timeout=10.0))) as flow:
        found = [Job(number=number) for number in range(4)]
        await asyncio.gather(*(flow.process(job, 60) for job in found))
        assert {job.found for job in found} == {1}
        await eventually(lambda: flow.statistics().steps[0].batch_ceiling == 1)
    assert "Failed to allocate memory" in caplog.text
