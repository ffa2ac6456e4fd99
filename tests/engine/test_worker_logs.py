"""What user code logs in workers arrives in the logging of the API process, once, and with the task it belongs to."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied, WorkerOptions
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.logger import log as package_log

from ..support import DEADLINE, eventually, forked, outcome, pids, running, wait_until
from . import logged
from .logged import REQUEST, Act

INTERVAL = 0.2
"""Seconds between two reports of dropped records."""

REPORT = "log records of workers in flow pages were dropped (too many at once, or an error in logging): "


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        """Return the texts of the records."""
        return [record.getMessage() for record in self.records]


@contextmanager
def kept(name: str, level: int = logging.INFO) -> Iterator[Kept]:
    """Keep the records of a logger, which has a level meanwhile."""
    handler, logger = Kept(), logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture(scope="module", params=["spawn", "forkserver"])
def flow(request: pytest.FixtureRequest) -> Iterator[Flow]:
    """A flow of one worker, in both ways to start it; its records of the start and the stop are checked here."""
    flow = Flow(
        FlowStep(logged.Plain(), name="act", worker=WorkerOptions(devices=["MIG-3"])),
        name="pages",
        mp_start_method=request.param,
        context=[REQUEST],
        timing=Timing(log_interval=INTERVAL),
    )
    with kept("tests.logged") as handler:
        flow.start()
        assert handler.texts() == ["on_start"]
        assert (handler.records[0].task_id, handler.records[0].request) == (None, None)
    yield flow
    (pid,) = pids(flow)
    with kept("tests.logged") as handler, kept("fastapi_aqueduct") as ours:
        asyncio.run(flow.stop())
        assert handler.texts()[-1:] == ["on_stop"]
        (record,) = [record for record in ours.records if record.levelno == logging.ERROR]
        assert record.getMessage() == f"on_stop of step act (pid {pid}) has failed"
        assert (record.step, repr(record.exc_info[1])) == ("act", "ConnectionError('cannot close')")


async def act(flow: Flow, name: str, *values: Any) -> Any:
    """Have a worker do something; return the result."""
    return (await flow.process(Act(name, *values), 20)).result


async def test_a_record_has_the_task_and_the_worker_that_it_belongs_to(flow: Flow) -> None:
    (pid,) = pids(flow)
    task = Act("say", "hello")
    with kept("tests.logged") as handler:
        await flow.process(task)
        await eventually(lambda: handler.records)  # behind a warning of the start of the worker
    (record,) = handler.records
    assert record.getMessage() == "hello"
    assert (record.flow, record.step, record.worker, record.pid) == ("pages", "act", 0, pid)
    assert (record.device_id, record.worker_version) == ("MIG-3", 1)
    assert (record.task_id, record.process, record.processName) == (task.task_id, pid, "pages:act")
    assert (record.page, record.funcName, record.pathname) == (7, "say", logged.__file__)


async def test_the_context_variables_of_the_caller_are_on_the_record_and_set_for_filters(flow: Flow) -> None:
    seen: list[str] = []

    def look(record: logging.LogRecord) -> bool:
        seen.append(REQUEST.get("none"))
        return True

    with kept("tests.logged") as handler:
        handler.addFilter(look)
        REQUEST.set("r-1")
        await act(flow, "say", "hello")
    assert [record.request for record in handler.records] == seen == ["r-1"]


async def test_records_of_loggers_that_do_not_propagate_arrive(flow: Flow) -> None:
    with kept("tests.alone") as handler:
        await act(flow, "say", "hello", logging.INFO, "tests.alone")
    assert handler.texts() == ["hello"]


async def test_handlers_that_user_code_adds_in_a_worker_get_nothing(flow: Flow) -> None:
    with kept("tests.logged"):
        await act(flow, "say", "hello")
        await act(flow, "say", "hello", logging.ERROR, "tests.alone")
        assert await act(flow, "written") == 0


async def test_a_level_that_changes_reaches_the_worker_before_the_next_task(flow: Flow) -> None:
    logger = logging.getLogger("tests.logged")
    with kept("tests.logged") as handler:
        assert not await act(flow, "enabled", "tests.logged", logging.DEBUG)  # a disabled record costs nothing there
        logger.setLevel(logging.DEBUG)
        await act(flow, "say", "one", logging.DEBUG)
        assert await act(flow, "enabled", "tests.logged.any", logging.DEBUG)
        logger.setLevel(logging.WARNING)
        await act(flow, "say", "two")
        assert not await act(flow, "enabled", "tests.logged.any", logging.INFO)
        logging.disable(logging.ERROR)
        try:
            assert not await act(flow, "enabled", "tests.logged", logging.ERROR)
        finally:
            logging.disable(logging.NOTSET)
        assert await act(flow, "enabled", "tests.logged", logging.ERROR)
    assert handler.texts() == ["one"]
    root = logging.getLogger().level
    assert await act(flow, "enabled", "others", root) and not await act(flow, "enabled", "others", root - 1)


async def test_a_level_that_user_code_sets_in_a_worker_remains_until_it_changes_here(flow: Flow) -> None:
    with kept("tests.logged", logging.DEBUG):
        assert not await act(flow, "enabled", "tests.logged.quiet", logging.WARNING)
        with kept("tests.logged.quiet", logging.INFO) as handler:
            await act(flow, "say", "hello", logging.INFO, "tests.logged.quiet")
            assert handler.texts() == ["hello"]
    # As on_start has left it, for the next way to start the flow.
    logging.getLogger("tests.logged.quiet").setLevel(logging.NOTSET)


async def test_levels_and_filters_of_this_process_decide(flow: Flow) -> None:
    logger = logging.getLogger("tests.logged")

    def refuse(record: logging.LogRecord) -> bool:
        return "secret" not in record.getMessage()

    with kept("tests.logged") as handler:
        logger.addFilter(refuse)
        logger.disabled = False
        try:
            await act(flow, "say", "a secret")
            await act(flow, "say", "hello")
            logger.disabled = True  # which the worker does not learn
            await act(flow, "say", "disabled")
        finally:
            logger.disabled = False
            logger.removeFilter(refuse)
    assert handler.texts() == ["hello"]


async def test_an_exception_arrives_as_text_and_as_itself(flow: Flow) -> None:
    with kept("tests.logged") as handler:
        await act(flow, "fail")
    (record,) = handler.records
    assert (record.msg, record.args) == ("could not read %s", ("a.png",))
    assert repr(record.exc_info[1]) == "ValueError('torn')"
    assert record.exc_text.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("torn")' in record.exc_text
    assert record.stack_info.startswith("Stack (most recent call last):\n")


async def test_a_warning_is_shown_as_one_of_this_process(flow: Flow) -> None:
    with warnings.catch_warnings(record=True) as caught, kept("py.warnings") as handler:
        await act(flow, "warn", "one")
    assert not handler.records
    (warning,) = caught
    assert (str(warning.message), warning.category) == ("one", RuntimeWarning)
    assert warning.filename == logged.__file__

    with kept("py.warnings") as handler:
        logging.captureWarnings(True)
        try:
            task = Act("warn", "two")
            await flow.process(task)
        finally:
            logging.captureWarnings(False)
    (record,) = handler.records
    assert "logged.py" in record.getMessage() and "RuntimeWarning: two" in record.getMessage()
    assert (record.task_id, record.step) == (task.task_id, "act")


async def test_the_uncaught_exception_of_a_thread_is_a_record(flow: Flow) -> None:
    with kept("threading") as handler:
        await act(flow, "fail_in_thread")
        await act(flow, "end_thread")
    (record,) = handler.records
    assert (record.levelname, record.getMessage(), record.step) == ("ERROR", "exception in thread reader", "act")
    assert repr(record.exc_info[1]) == "ValueError('torn')"
    assert "in raise_error" in record.exc_text


async def test_a_text_that_logs_itself_does_not_recurse(flow: Flow) -> None:
    with kept("tests.logged") as handler:
        await asyncio.wait_for(act(flow, "recurse"), 10)
        await eventually(lambda: "text of deadly" in handler.texts())
    assert set(handler.texts()) <= {"made from deadly", "text of deadly"}
    assert len(handler.records) < 5


async def test_a_handler_of_this_process_may_log(flow: Flow) -> None:
    class Talkative(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "tests.logged":
                logging.getLogger("tests.logged.handler").info("got %s", record.getMessage())

    talkative = Talkative()
    with kept("tests.logged") as handler:
        logging.getLogger("tests.logged").addHandler(talkative)
        try:
            await act(flow, "say", "hello")
        finally:
            logging.getLogger("tests.logged").removeHandler(talkative)
    assert handler.texts() == ["hello", "got hello"]


async def test_a_filter_that_raises_costs_a_record_and_no_worker(
    flow: Flow, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("a broken filter")

    before, dropped = pids(flow), flow.statistics().steps[0].log_records_dropped
    logger = logging.getLogger("tests.logged")
    with kept("tests.logged") as handler, kept(package_log.name) as reports:
        logger.addFilter(refuse)
        try:
            await act(flow, "say", "one")
            await act(flow, "say", "two")
        finally:
            logger.removeFilter(refuse)
        await act(flow, "say", "three")
        await eventually(lambda: reported(reports) == 2)
    assert handler.texts() == ["three"]
    assert flow.statistics().steps[0].log_records_dropped == dropped + 2
    assert capsys.readouterr().err.count("RuntimeError: a broken filter") == 1
    assert pids(flow) == before


# Many records at once


async def test_user_code_never_waits_and_what_is_dropped_is_counted_and_reported(flow: Flow) -> None:
    count, before = 8_000, flow.statistics().steps[0].log_records_dropped
    (worker,) = pids(flow)
    with kept("tests.logged") as handler, kept(package_log.name) as reports:
        call = asyncio.ensure_future(flow.process(Act("burst", count, "x" * 400), 60))
        await asyncio.sleep(0)
        # The event loop stands still, as in an endpoint that blocks it; the worker goes on to the end of its call.
        assert wait_until(partial(is_asleep, worker), DEADLINE)
        await call

        def dropped() -> int:
            return flow.statistics().steps[0].log_records_dropped - before

        started = time.monotonic()
        await eventually(lambda: len(handler.records) + dropped() == count)
        assert 0 < dropped() < count
        numbers = [record.args[0] for record in handler.records]
        assert numbers == sorted(set(numbers))
        await eventually(lambda: reported(reports) == dropped())
        assert len(reports.records) <= 2 + (time.monotonic() - started) / INTERVAL


def reported(reports: Kept) -> int:
    """Return how many dropped records were reported."""
    return sum(int(text.removeprefix(REPORT).removesuffix(" of act")) for text in reports.texts())


def is_asleep(pid: int) -> bool:
    """Tell whether all threads of a process wait, twice in a row."""
    for _ in range(2):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] != "S":
                    return False
        time.sleep(0.05)
    return True


async def test_records_that_come_at_once_are_handled_in_several_turns_of_the_event_loop(flow: Flow) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.001)

    slow, logger = Slow(), logging.getLogger("tests.logged")
    with kept("tests.logged") as handler:
        logger.addHandler(slow)
        call = asyncio.ensure_future(flow.process(Act("burst", 100, ""), 20))
        handled = [0]
        while handled[-1] < 100:
            await asyncio.sleep(0)
            handled.append(len(handler.records))
        logger.removeHandler(slow)
        await call
    assert max(after - before for before, after in itertools.pairwise(handled)) <= 2


# The forms of handlers


@pytest.fixture(scope="module")
def forms() -> Iterator[Flow]:
    """A flow with a step of each form of handler."""
    handlers: dict[str, tuple[Any, dict[str, Any]]] = {
        "batch": (logged.Batch(), {"batch_size": 3, "batch_timeout": 5.0}),
        "generator": (logged.Generator(), {"concurrency": 2}),
        "coroutine": (logged.Coroutine(), {}),
        "async-generator": (logged.Async(), {}),
        "continuous": (logged.Continuous(), {"batch_size": 2, "continuous": True}),
    }
    steps = [
        FlowStep(handler, name=form, handle_condition=logged.Is(form), **options)
        for form, (handler, options) in handlers.items()
    ]
    flow = forked(*steps)
    flow.start()
    yield flow
    asyncio.run(flow.stop())


@pytest.mark.parametrize("form", ["generator", "coroutine", "async-generator"])
async def test_records_of_calls_side_by_side_have_the_task_of_their_call(form: str, forms: Flow) -> None:
    tasks = {name: Act("", name, form=form) for name in ("a", "b")}
    with kept("tests.logged") as handler:
        await asyncio.gather(*[forms.process(task) for task in tasks.values()])
    found = {(record.args[-1], record.task_id) for record in handler.records}
    assert found == {(name, task.task_id) for name, task in tasks.items()}
    assert {record.step for record in handler.records} == {form}


async def test_a_record_of_a_batch_has_the_ids_of_its_tasks(forms: Flow) -> None:
    tasks = [Act("", form="batch") for _ in range(3)]
    with kept("tests.logged") as handler:
        await asyncio.gather(*[forms.process(task) for task in tasks])
    (record,) = handler.records
    assert record.task_id == ",".join(task.task_id for task in tasks)


async def test_a_record_of_continuous_batching_has_the_ids_of_its_round(forms: Flow) -> None:
    task = Act("", form="continuous")
    with kept("tests.logged") as handler:
        await forms.process(task)
    assert [record.task_id for record in handler.records] == [task.task_id]


# Deaths, and flows that forward nothing


async def test_what_was_logged_before_a_death_arrives_and_before_the_report_of_it() -> None:
    timing = Timing(first_wait=0.0)
    with kept("tests.logged") as handler, kept(package_log.name) as reports:
        async with running(Flow(FlowStep(logged.Plain(), max_retries=0), timing=timing)) as flow:
            for how in ("kill", "exit", "segfault"):
                (pid,) = pids(flow)
                assert isinstance(await outcome(flow.process(Act("die", how), 20)), WorkerDied)
                record = handler.records[-2 if handler.texts()[-1] == "on_start" else -1]
                assert (record.getMessage(), record.pid) == (f"about to die by {how}", pid)
                report = next(line for line in reports.records if str(pid) in line.getMessage())
                assert record.created < report.created
                await eventually(partial(is_replaced, flow, pid))


def is_replaced(flow: Flow, pid: int) -> bool:
    return bool(pids(flow)) and pids(flow) != [pid]


async def test_without_forwarding_workers_have_their_own_logging() -> None:
    with kept("tests.logged") as handler, kept("tests.alone"):
        async with running(forked(logged.Plain(), forward_logs=False)) as flow:
            await act(flow, "say", "hello", logging.WARNING)
            assert await act(flow, "written") == 1
    assert not handler.records
