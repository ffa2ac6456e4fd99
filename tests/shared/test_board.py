"""The board of a pipeline: API processes refuse by it what the pipeline process would refuse, in the same words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastapi_aqueduct import AqueductError, Autoscale, DeadlineUnreachable, Flow, FlowStep, QueueFull, StepUnavailable
from fastapi_aqueduct.engine.refusals import Refusals
from fastapi_aqueduct.engine.shared.board import Board, BoardFormat, Outlook, StepOutlook, create_board
from fastapi_aqueduct.engine.shared.board_reader import BoardReader
from fastapi_aqueduct.engine.shared.board_writer import BoardWriter
from fastapi_aqueduct.engine.shared.numbers import number_of, split
from fastapi_aqueduct.engine.wire.frames import ProtocolError
from fastapi_aqueduct.testing import inline
from fastapi_aqueduct.testing.inline import InlineEngine
from fastapi_aqueduct.testing.threads import ThreadStarter

from ..handlers import Each, Gate, Job, enter_gate, enter_gate_if_any
from ..reliability.handlers import SlowToLoad, work
from ..support import DEADLINE, busy, engine_of, eventually, forked, pids, running, script_environment


class Ends:
    """Both ends of a board: the one of a flow that runs here, and a reader that knows nothing but its declaration."""

    def __init__(self, flow: Flow, levels: int, queue_size: int, silence: float) -> None:
        engine = engine_of(flow)
        dispatcher = engine.dispatcher
        self.writer = BoardWriter(flow.name, dispatcher.stages, dispatcher.route, lambda: dispatcher.in_flight)
        self.writer.attach(asyncio.get_running_loop())
        dispatcher.admission.on_change = self.writer.note_workers
        self.woken: list[int] = []
        self.refusals = Refusals()
        parts = flow.name, flow._steps, levels, queue_size, self.refusals, self.woken.append
        self.reader = BoardReader(self.writer.fd, *parts, silence)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        os.close(self.writer.fd)


@contextlib.contextmanager
def board_of(flow: Flow, levels: int = 1, queue_size: int = 1024, silence: float = 5.0) -> Iterator[Ends]:
    ends = Ends(flow, levels, queue_size, silence)
    try:
        yield ends
    finally:
        ends.close()


def refusal(check: object, *arguments: object) -> tuple[type[Exception], str] | None:
    """Return with what an entry is refused."""
    try:
        check(*arguments)  # type: ignore[operator]
    except AqueductError as exc:
        return type(exc), str(exc)
    return None


async def test_a_full_queue_is_refused_by_level_and_in_the_same_words(tmp_path: Path) -> None:
    flow = forked(Each(enter_gate_if_any), queue_size=2, queue_priorities=2)
    async with running(flow):
        with board_of(flow, 2, 2) as ends:
            ends.reader.check(0, 5.0)
            async with busy(flow, Gate(tmp_path)):
                tasks = [asyncio.create_task(flow.process(Job(), 60)) for _ in range(2)]
                await eventually(lambda: flow.statistics().steps[0].queued == 2)
                ends.writer.note()
                with pytest.raises(QueueFull, match="2 tasks wait for step step1_Each of flow flow; its queue is full"):
                    ends.reader.check(0, 60.0)
                assert refusal(ends.reader.check, 0, 60.0) == refusal(flow.check_entry, 0, 60.0)
                ends.reader.check(1, 60.0)  # each level has places of its own
                assert ends.refusals.by_reason() == {"queue_full": 2}
            await asyncio.gather(*tasks)
            await eventually(lambda: refusal(ends.reader.check, 0, 60.0) is None)


async def test_what_would_come_too_late_is_refused_as_long_as_others_are_in_flight() -> None:
    flow = forked(Each(work))
    async with running(flow):
        with board_of(flow) as ends:
            for _ in range(5):
                await flow.process(Job(seconds=0.1))
            waiting = [asyncio.create_task(flow.process(Job(seconds=0.1), 60)) for _ in range(12)]
            await eventually(lambda: flow.statistics().steps[0].queued >= 8)
            ends.writer.note()
            with pytest.raises(DeadlineUnreachable, match=r"would take about \d+\.\d s now and has 0.3 s"):
                ends.reader.check(0, 0.3)
            ends.reader.check(0, 30.0)
            await asyncio.gather(*waiting)
            ends.writer.note()  # as before the answers are sent: who has the last one may send the next task
            ends.reader.check(0, 0.001)


async def test_the_outlook_follows_the_queue_without_a_word_from_anybody(tmp_path: Path) -> None:
    flow = forked(Each(enter_gate_if_any), queue_size=2)
    async with running(flow):
        with board_of(flow, 1, 2) as ends:
            async with busy(flow, Gate(tmp_path)):
                ends.writer.note()  # once, and never again
                tasks = [asyncio.create_task(flow.process(Job(), 60)) for _ in range(2)]
                await eventually(lambda: refusal(ends.reader.check, 0, 60.0) is not None)
            await asyncio.gather(*tasks)
            await eventually(lambda: refusal(ends.reader.check, 0, 60.0) is None)


async def test_a_step_without_workers_is_refused_with_the_expected_wait(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    flow = forked(SlowToLoad(slow), name="ocr")
    async with running(flow):
        with board_of(flow) as ends:
            ends.reader.check(0, 5.0)
            slow.touch()
            os.kill(pids(flow)[0], signal.SIGKILL)
            await eventually(lambda: not pids(flow))
            await eventually(lambda: refusal(ends.reader.check, 0, 60.0) is not None)
            with pytest.raises(StepUnavailable, match="step1_SlowToLoad of flow ocr has no ready worker") as caught:
                ends.reader.check(0, 60.0)
            assert 0 < caught.value.retry_after < 10
            ends.reader.check_workers(60.0, Job())  # who has the time may wait for the replacement
            with pytest.raises(StepUnavailable):
                ends.reader.check_workers(0.01, Job())
            slow.unlink()
            await eventually(lambda: refusal(ends.reader.check, 0, 60.0) is None)


def has_number(task: Job) -> bool:
    return bool(task.number)


async def test_a_step_that_sleeps_is_woken_by_a_task_that_will_visit_it() -> None:
    elastic = FlowStep(Each(work), nprocs=Autoscale(0, 1, idle_after=0.2), handle_condition=has_number)
    flow = Flow(FlowStep(Each(work)), elastic)
    with flow._lifecycle.built_by(lambda options: InlineEngine.build(options, ThreadStarter(options))):
        async with flow:
            with board_of(flow) as ends:
                asleep = engine_of(flow).dispatcher.stages[1].pool
                await eventually(lambda: asleep.is_asleep)
                asleep.load_time = 7.0
                ends.writer.note_workers()
                await asyncio.sleep(0)
                ends.reader.check(0, 5.0)  # it is not known yet whether the task will go there
                ends.reader.check_workers(5.0, Job(number=0))
                assert ends.woken == []
                with pytest.raises(DeadlineUnreachable, match=r"was asleep and starts in about 7\.0 s; a task has 5 s"):
                    ends.reader.check_workers(5.0, Job(number=1))
                assert ends.woken == [1]
                ends.reader.check_workers(8.0, Job(number=1))
                assert ends.woken == [1, 1]


async def test_a_writer_that_stands_still_is_noticed() -> None:
    flow = Flow(Each(work))
    with inline(flow):
        async with flow:
            with board_of(flow, silence=0.05) as ends:
                await eventually(lambda: ends.reader.silent_for() == 0.0)
                ends.writer.detach()
                await eventually(lambda: ends.reader.silent_for() > 0.05)
                ends.reader.check(0, 5.0)  # it says what was so last
                ends.writer.attach(asyncio.get_running_loop())
                await eventually(lambda: ends.reader.silent_for() == 0.0)


async def test_a_busy_writer_writes_a_hundred_times_a_second_and_an_idle_one_only_its_heartbeat(tmp_path: Path) -> None:
    flow = forked(Each(enter_gate))
    async with running(flow):
        with board_of(flow) as ends:
            versions = ends.writer._words
            async with busy(flow, Gate(tmp_path)):
                before, started = versions[0], time.monotonic()
                for _ in range(1000):
                    ends.writer.note()
                await eventually(lambda: versions[0] > before + 4)
                assert (versions[0] - before) / 2 <= 2 + (time.monotonic() - started) / 0.01
            await eventually(lambda: ends.writer._timer is None)
            before = versions[0]
            ends.writer.note()
            assert versions[0] == before


WRITER = """
import sys, time, zlib
from fastapi_aqueduct.engine.shared.board import *
from fastapi_aqueduct.engine.shared.board import Board, BoardFormat

layout = BoardFormat(40, 3)
board = Board(int(sys.argv[1]), layout, is_writable=True)
number = 0
while True:
    number += 1
    steps = (StepOutlook(number, number % 8),) * 40
    content = layout.pack(Outlook(number, number, (number,) * 3, steps))
    board.words[VERSION] += 1
    board.content[:] = content
    board.words[CHECKSUM] = zlib.crc32(content)
    board.words[VERSION] += 1
"""


def test_no_reader_sees_half_of_an_outlook() -> None:
    layout = BoardFormat(40, 3)
    fd = create_board("torn", layout)
    steps = [(f"step{number}", FlowStep(Each(work))) for number in range(40)]
    reader = BoardReader(fd, "torn", steps, 3, 1024, Refusals(), lambda index: None)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(fd)], pass_fds=[fd], env=script_environment())
    try:
        seen: set[float] = set()
        deadline = time.monotonic() + DEADLINE
        while len(seen) < 20 and time.monotonic() < deadline:
            reader._read()
            outlook = reader._outlook
            if not outlook.written_at:
                continue
            number = outlook.written_at
            assert outlook.expected_time == number and set(outlook.waiting) == {number}
            assert set(outlook.steps) == {(number, number % 8)}
            seen.add(number)
        assert len(seen) == 20
    finally:
        writer.kill()
        writer.wait()
        # It may have been killed in the middle: what was read before stands.
        reader._read()
        assert reader._outlook.written_at >= max(seen)
        reader.close()
        os.close(fd)


def test_an_outlook_is_read_as_it_was_written() -> None:
    for steps, levels in ((1, 1), (3, 5)):
        layout = BoardFormat(steps, levels)
        outlook = Outlook(1.5, 2.5, tuple(range(levels)), tuple(StepOutlook(n / 4, n % 8) for n in range(steps)))
        assert layout.unpack(layout.pack(outlook)) == outlook


def test_a_board_of_another_flow_is_not_read() -> None:
    fd = create_board("small", BoardFormat(1, 1))
    try:
        with pytest.raises(ProtocolError, match="smaller"):
            Board(fd, BoardFormat(400, 4))
    finally:
        os.close(fd)


def test_a_number_names_its_process() -> None:
    for _ in range(100):
        guest, own = random.randrange(1, 1 << 20), random.randrange(1, 1 << 40)
        assert split(number_of(guest, own)) == (guest, own)
    assert split(77) == (0, 77)
