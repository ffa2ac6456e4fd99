"""What user code in the workers of a pipeline logs arrives in the API process whose task it is about."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.engine.shared.log_desk import LogDesk
from fastapi_aqueduct.engine.shared.numbers import number_of
from fastapi_aqueduct.engine.shared.remote_logs import RemoteLogs
from fastapi_aqueduct.engine.wire.frames import Kind, ProtocolError
from fastapi_aqueduct.engine.wire.log_levels import LogLevels
from fastapi_aqueduct.engine.wire.log_records import address_record, pack_record, split_record, unpack_record
from fastapi_aqueduct.engine.workers.worker_logs import WorkerLogs

from ..handlers import Job
from ..support import DEADLINE, eventually, forked
from .handlers import REQUEST, BadModel, Logging
from .pipeline import engine, sharing
from .support import End, connection

NAME = "tests.shared.worker"


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def kept(level: int = logging.INFO) -> Iterator[list[Any]]:
    handler, logger = Kept(), logging.getLogger(NAME)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def make_flow() -> Flow:
    return forked(FlowStep(Logging(), name="say"), name="ocr", context=[REQUEST])


def job(number: int, level: int = logging.INFO, fault: str = "") -> Job:
    return Job(number=number, level=level, fault=fault)


def frames(flow: Flow) -> list[bytes]:
    """Collect the records that a process gets from now on; they are handled nevertheless."""
    seen: list[bytes] = []
    logs = engine(flow)._logs
    handle = logs.on_log

    def on_log(payload: bytes) -> None:
        seen.append(payload)
        handle(payload)

    logs.on_log = on_log  # type: ignore[method-assign]
    return seen


async def test_a_record_goes_to_the_process_of_its_task() -> None:
    first, second = make_flow(), make_flow()
    with kept() as records:
        async with sharing(first, second):
            at_first, at_second = frames(first), frames(second)
            for _ in range(3):
                await first.process(job(1), DEADLINE)
            records.clear()
            REQUEST.set("r7")
            task = job(2)
            await second.process(task, DEADLINE)
            await eventually(lambda: len(records) == 1)
            assert (len(at_first), len(at_second)) == (3, 1)
            (record,) = records
            assert record.getMessage() == "has 2" and record.args == (2,)
            assert (record.flow, record.step, record.worker) == ("ocr", "say", 0)
            assert record.pid == second.statistics().steps[0].workers[0].pid
            assert record.request == "r7"
            assert record.task_id == task.task_id
            # What belongs to no task goes to the process that has been there for longest.
            await second.steps["say"].restart()
            await eventually(lambda: any(record.getMessage() == "starts" for record in records))
            assert records[-1].task_id is None and len(at_first) == 4


async def test_an_exception_of_the_user_is_logged_as_itself() -> None:
    flow = make_flow()
    with kept() as records:
        async with sharing(flow):
            records.clear()
            await flow.process(job(1, fault="x"), DEADLINE)
            await eventually(lambda: len(records) == 1)
            assert isinstance(records[0].exc_info[1], BadModel)
            assert "no model at x" in records[0].exc_text


async def test_workers_log_at_the_levels_of_the_api_process() -> None:
    flow = make_flow()
    with kept(logging.WARNING) as records:
        async with sharing(flow):
            await flow.process(job(1, logging.DEBUG), DEADLINE)
            logging.getLogger(NAME).setLevel(logging.DEBUG)
            await flow.process(job(2, logging.DEBUG), DEADLINE)
            await eventually(lambda: any(record.getMessage() == "has 2" for record in records))
            assert not any(record.getMessage() == "has 1" for record in records)


# The desk


class Worker:
    """Stands where a worker logs."""

    name, index, pid, version, state = "say", 0, 77, 3, "ready"

    class environment:
        device_id = None

    def distrust(self, error: Exception) -> None:
        raise error


class Step:
    name, log_records_dropped = "say", 0


def packed(text: str, *tasks: int) -> bytes:
    record = logging.LogRecord(NAME, logging.INFO, "x.py", 1, text, (), None)
    return address_record(tasks, pack_record(record, None, {}))


async def test_a_record_of_a_batch_goes_to_one_process_and_one_of_nobody_to_the_eldest() -> None:
    logs = WorkerLogs("ocr", (), 10.0)
    desk = LogDesk(logs)
    forward = logs.forward
    assert forward is not None
    worker: Any = Worker()
    step: Any = Step()
    assert not forward(step, worker, packed("alone", number_of(1, 5)))  # it is handled in the pipeline process
    with connection(1) as (_, one), connection(2) as (_, two):
        arrived: dict[int, list[str]] = {1: [], 2: []}

        def note(end: End) -> None:
            def post(kind: Kind, payload: bytes) -> None:
                assert kind is Kind.LOG
                *_, record = pickle.loads(payload)
                arrived[end.number].append(unpack_record(split_record(record)[1]).record.getMessage())

            end.post = post  # type: ignore[method-assign]

        for end in (one, two):
            note(end)
            desk.join(end)
        assert forward(step, worker, packed("batch", number_of(2, 5), number_of(1, 6), number_of(2, 7)))
        assert forward(step, worker, packed("none"))
        assert forward(step, worker, packed("gone", number_of(9, 1)))
        two.is_stuck = True
        assert forward(step, worker, packed("too many", number_of(2, 8)))
        desk.leave(1)
        two.is_stuck = False
        assert forward(step, worker, packed("late", number_of(1, 6)))
        desk.leave(2)
    assert arrived == {1: ["none", "gone"], 2: ["batch", "late"]}
    assert step.log_records_dropped == 1


def test_the_lowest_level_of_any_process_counts() -> None:
    one = LogLevels(0, {"root": logging.WARNING, "a": logging.DEBUG, "b": logging.ERROR})
    two = LogLevels(logging.DEBUG, {"root": logging.INFO, "b.c": logging.CRITICAL})
    lowest = LogLevels.lowest([one, two])
    assert lowest.disabled == 0
    assert lowest.levels == {
        "root": logging.INFO,
        "a": logging.DEBUG,
        "b": logging.INFO,
        "b.c": logging.ERROR,
    }
    assert one.without("b").levels == {"root": logging.WARNING, "a": logging.DEBUG}
    assert LogLevels.lowest([one]) == one


def test_the_tasks_of_a_record_are_read_without_the_record() -> None:
    numbers, record = split_record(packed("x", 1, number_of(3, 2)))
    assert numbers == [1, number_of(3, 2)]
    assert unpack_record(record).record.getMessage() == "x"
    assert split_record(packed("x", *range(1000)))[0] == list(range(64))
    for malformed in (b"", b"\2abc"):
        with pytest.raises(ProtocolError):
            split_record(malformed)


def test_what_is_no_record_or_no_level_is_refused() -> None:
    flow = make_flow()
    with pytest.raises(ProtocolError):
        RemoteLogs(flow._lifecycle.options).on_log(b"x")
    with pytest.raises(ProtocolError):
        LogDesk(None).on_levels(1, b"x")
