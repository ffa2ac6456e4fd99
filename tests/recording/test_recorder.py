"""Tasks that fail are written to files, in flows of their own and with a shared pipeline."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from fastapi_aqueduct import (
    Aqueduct,
    ConfigurationError,
    Flow,
    FlowStep,
    HandlerTimeout,
    InvalidArgument,
    Recorder,
    RecordingError,
    WorkerDied,
)
from fastapi_aqueduct.engine.statistics import RecordingStatistics
from fastapi_aqueduct.testing import inline

from ..handlers import Gate
from ..metrics.test_families import Page
from ..shared.pipeline import sharing
from ..support import DEADLINE, blocks, eventually, forked, outcome, pids, running
from .handlers import Hold, Prepare, Read, ReadAlone, ReadSlowly, Scan, Unreadable
from .support import error_of, files_of, names

Run = Callable[[Flow], AbstractAsyncContextManager[object]]

ENGINES: dict[str, Run] = {"own": running, "shared": sharing}


@pytest.fixture(params=ENGINES)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a flow with a pipeline of its own, or with a shared one, which has no code of the user."""
    return ENGINES[request.param]


def make_flow(recorder: Recorder, **options: Any) -> Flow:
    steps = FlowStep(Prepare(), name="prepare"), FlowStep(Read(), name="read", **options)
    return forked(*steps, name="ocr", recorder=recorder)


def pixels() -> Any:
    return np.arange(100_000, dtype=np.int64)


def entered(file: Any) -> Scan:
    """Return a recorded task, which must be as it entered the step that failed."""
    task = file.make_task()
    assert isinstance(task, Scan) and task.words == ["prepared"] and task.text == ""
    assert (task.pixels == pixels() + 1).all()
    return task


async def test_a_task_is_recorded_as_it_entered_the_step(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder)
    async with run(flow):
        await flow.process(Scan(pixels()), DEADLINE)
        scan = Scan(pixels(), "raise")
        error = await outcome(flow.process(scan, DEADLINE))
        assert isinstance(error, Unreadable)
        (file,) = await files_of(recorder)
        assert entered(file).task_id == scan.task_id
        assert not entered(file).pixels.flags.writeable  # as in a worker
        assert file.metadata["flow"] == "ocr" and file.metadata["step"] == "read" and file.metadata["version"] == 1
        assert file.metadata["task_id"] == scan.task_id
        assert file.metadata["task"] == "tests.recording.handlers.Scan"
        assert file.metadata["fields"]["pixels"] == "numpy.ndarray int64 (100000,)"
        assert error_of(file)["type"] == "tests.recording.handlers.Unreadable"
        assert error_of(file)["message"] == "no text\nin it"
        assert "in fail\n    raise Unreadable" in error_of(file)["traceback"]
        worker = file.metadata["worker"]
        assert worker["pid"] in pids(flow, 1) and worker["died"] is False and worker["exit_code"] is None
        assert file.metadata["packages"]["numpy"] == np.__version__
        assert f"fastapi-aqueduct replay {file.path}" in error.__notes__[0]
        record: Any
        (record,) = [record for record in caplog.records if hasattr(record, "task_file")]
        assert record.task_file == str(file.path) and str(file.path) in record.getMessage()
        assert (record.task_id, record.step, record.pid) == (scan.task_id, "read", worker["pid"])
        assert flow.statistics().recordings == RecordingStatistics(1, {})
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(recorder.directory.stat().st_mode) == 0o700
        del scan, error
        await eventually(lambda: blocks(flow) == 0)


async def test_a_task_that_is_failed_in_a_batch_is_recorded_alone(run: Run, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder, batch_size=8, batch_timeout=1.0)
    async with run(flow):
        tasks = [Scan(pixels(), fault) for fault in ("", "fail", "", "")]
        await asyncio.gather(*[flow.process(task, DEADLINE) for task in tasks], return_exceptions=True)
        (file,) = await files_of(recorder)
        assert entered(file).fault == "fail" and error_of(file)["message"] == "not this one"


async def test_a_batch_that_runs_out_of_memory_is_not_recorded_but_a_task_that_does_alone_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    steps = FlowStep(Prepare(), name="prepare"), FlowStep(ReadAlone(), name="read", batch_size=4, batch_timeout=1.0)
    flow = Flow(*steps, name="ocr", recorder=recorder)
    async with inline(flow):
        faults = ("", "memory", "", "")
        answers = await asyncio.gather(*[outcome(flow.process(Scan(pixels(), fault), DEADLINE)) for fault in faults])
        assert [type(answer) for answer in answers] == [Scan, MemoryError, Scan, Scan]
        (file,) = await files_of(recorder)
        assert entered(file).fault == "memory" and error_of(file)["message"] == "no memory for 1 tasks"
        assert error_of(file)["type"] == "MemoryError" and file.metadata["worker"]["died"] is False
        assert flow.statistics().recordings == RecordingStatistics(1, {})


async def test_a_killer_is_recorded_once(run: Run, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder, batch_size=4, batch_timeout=1.0)
    async with run(flow):
        tasks = [Scan(pixels(), fault) for fault in ("", "exit", "")]
        _, error, _ = await asyncio.gather(*[outcome(flow.process(task, DEADLINE)) for task in tasks])
        assert isinstance(error, WorkerDied)
        (file,) = await files_of(recorder)
        assert entered(file).fault == "exit"
        assert file.metadata["worker"]["exit_code"] == 3 and file.metadata["worker"]["tasks_in_hand"] == 1
        assert error_of(file)["type"] == "fastapi_aqueduct.exceptions.WorkerDied"
        assert str(file.path) in error.__notes__[0]
        del tasks, error


async def test_a_task_with_which_a_worker_was_killed_is_recorded_although_it_is_done_in_the_end(
    run: Run, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow, gate = make_flow(recorder), Gate(tmp_path)
    async with run(flow):
        call = asyncio.create_task(flow.process(Scan(pixels(), gate=gate), DEADLINE))
        await eventually(gate.is_entered)
        os.kill(pids(flow, 1)[0], signal.SIGKILL)
        gate.open()
        assert (await call).text == "read"
        (file,) = await files_of(recorder)
        assert file.metadata["worker"]["exit_code"] == -signal.SIGKILL
        del call


async def test_a_task_that_fails_in_a_later_step_than_a_worker_was_killed_in_is_recorded_twice(
    run: Run, tmp_path: Path
) -> None:
    """The exception names the file of the step that has failed."""
    recorder = Recorder(tmp_path / "failures")
    gate = Gate(tmp_path)
    steps = FlowStep(Hold(), name="hold"), FlowStep(Prepare(), name="prepare"), FlowStep(Read(), name="read")
    flow = forked(*steps, name="ocr", recorder=recorder)
    async with run(flow):
        call = asyncio.create_task(outcome(flow.process(Scan(pixels(), "raise", gate), DEADLINE)))
        await eventually(gate.is_entered)
        os.kill(pids(flow, 0)[0], signal.SIGKILL)
        gate.open()
        error = await call
        killed, failed = await files_of(recorder)
        assert (killed.metadata["step"], killed.metadata["worker"]["died"]) == ("hold", True)
        assert failed.metadata["step"] == "read" and entered(failed).fault == "raise"
        assert isinstance(error, Unreadable) and str(failed.path) in error.__notes__[0]
        del call, error


async def test_a_hang_is_recorded_with_its_stack_also_when_the_caller_has_gone(run: Run, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder, handle_timeout=1.0, max_retries=0)
    async with run(flow):
        call = asyncio.create_task(flow.process(Scan(pixels(), "hang", Gate(tmp_path)), DEADLINE))
        await eventually(Gate(tmp_path).is_entered)
        call.cancel()
        Gate(tmp_path).open()
        await eventually(lambda: flow.statistics().recordings == RecordingStatistics(1, {}))
        (file,) = await files_of(recorder)
        assert "longer than handle_timeout=1 s" in file.metadata["worker"]["reason"]
        assert file.metadata["worker"]["cause"] == "hang"
        assert "in handle" in error_of(file)["traceback"]
        del call


async def test_a_coroutine_that_takes_too_long_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = forked(FlowStep(ReadSlowly(), handle_timeout=0.3), recorder=recorder)
    async with running(flow):
        error = await outcome(flow.process(Scan(pixels()), DEADLINE))
        assert isinstance(error, HandlerTimeout | WorkerDied)  # where the machine is slow, the event loop hangs, too
        (file,) = await files_of(recorder)
        task = file.make_task()
        assert isinstance(task, Scan) and task.words == []


async def test_tasks_that_are_cancelled_or_late_or_stopped_with_the_flow_are_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder)
    async with running(flow):
        first = asyncio.create_task(flow.process(Scan(pixels(), gate=Gate(tmp_path)), DEADLINE))
        await eventually(Gate(tmp_path).is_entered)
        assert isinstance(await outcome(flow.process(Scan(pixels(), "raise"), 0.2)), TimeoutError)  # in the queue
        first.cancel()
        await asyncio.wait([first])
        await flow.stop(graceful=False)
    assert await files_of(recorder) == []
    assert flow.statistics().recordings == RecordingStatistics(0, {})


async def test_a_storm_writes_few_files(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures", per_minute=3)
    flow = make_flow(recorder)
    page = Page(flow)
    reasons = ("backlog", "redact", "too_large", "too_many", "unwritable")
    async with inline(flow):
        before = page.read()
        assert before["aqueduct_failures_recorded_total"] == 0
        assert {before[f"aqueduct_failures_dropped_total {reason}"] for reason in reasons} == {0}
        calls = [outcome(flow.process(Scan(pixels(), "raise"), DEADLINE)) for _ in range(20)]
        await asyncio.gather(*calls, outcome(flow.process(Scan(pixels(), "fail"), DEADLINE)))
        files = await files_of(recorder)
        assert len(files) == 3
        assert flow.statistics().recordings == RecordingStatistics(3, {"too_many": 18})
        after = page.read()
        assert after["aqueduct_failures_recorded_total"] == 3
        assert [after[f"aqueduct_failures_dropped_total {reason}"] for reason in reasons] == [0, 0, 0, 18, 0]


async def test_redact_changes_a_copy(tmp_path: Path) -> None:
    def redact(task: Scan) -> None:
        task.customer = ""
        task.pixels = task.pixels[:10]
        task.words.append("redacted")

    recorder = Recorder(tmp_path / "failures", redact=redact)
    flow = make_flow(recorder)
    async with inline(flow):
        scan = Scan(pixels(), "raise")
        await outcome(flow.process(scan, DEADLINE))
        (file,) = await files_of(recorder)
        task = file.make_task()
        assert isinstance(task, Scan)
        assert (task.customer, task.words, len(task.pixels)) == ("", ["prepared", "redacted"], 10)
        assert b"Ann" not in file.path.read_bytes()
        assert file.metadata["redacted"] and scan.customer == "Ann" and scan.words == []
        del scan


def write_pixels(task: Scan) -> None:
    task.pixels[0] = 0


def redact_copy(task: Scan) -> Scan:
    return replace(task, customer="")


def leave(task: Scan) -> None:
    sys.exit("no access")


async def test_nothing_is_written_when_redact_does_not_do_its_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = {
        write_pixels: "redact has failed: ValueError: assignment destination is read-only",
        redact_copy: "redact has failed: it must change the task that it gets, and has returned a Scan",
        leave: "redact has failed: SystemExit: no access",
    }
    flow = make_flow(Recorder(tmp_path / "failures"))
    async with inline(flow):
        for count, redact in enumerate(words, 1):
            flow.recorder = recorder = Recorder(tmp_path / "failures", redact=redact)
            await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
            assert await files_of(recorder) == [] and names(recorder.directory) == []
            assert flow.statistics().recordings == RecordingStatistics(0, {"redact": count})
        await eventually(lambda: blocks(flow) == 0)
    for text in words.values():
        assert text in caplog.text
    assert "Ann" not in caplog.text


async def test_a_file_has_no_more_than_max_size_with_what_is_beside_the_task(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures", max_size=2000)
    flow = make_flow(recorder)
    async with inline(flow):
        await outcome(flow.process(Scan(None, "raise"), DEADLINE))
        assert await files_of(recorder) == []
        assert flow.statistics().recordings == RecordingStatistics(0, {"too_large": 1})


class Lazy:
    """Loads its attributes from elsewhere, which is not there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConnectionError("no database")


async def test_a_value_that_cannot_be_described_is_recorded_nevertheless(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = Flow(Read(), recorder=recorder)
    async with inline(flow):
        await outcome(flow.process(Scan(Lazy(), "raise"), DEADLINE))
        (file,) = await files_of(recorder)
        assert file.metadata["fields"]["pixels"] == f"{__name__}.Lazy"


async def test_a_task_whose_id_is_no_text_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = Flow(Read(), recorder=recorder)
    async with inline(flow):
        scan: Any = Scan(None, "raise")
        scan.task_id = uuid.UUID(int=7)
        await outcome(flow.process(scan, DEADLINE))
        (file,) = await files_of(recorder)
        assert file.metadata["task_id"] == "00000000-0000-0000-0000-000000000007"
        assert file.make_task().task_id == scan.task_id


async def test_what_is_shared_for_writing_is_recorded_as_it_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = Flow(Read(), recorder=recorder)
    async with inline(flow):
        scan = Scan(pixels(), "raise")
        scan.share_value("pixels")
        await outcome(flow.process(scan, DEADLINE))
        (file,) = await files_of(recorder)
        for _ in range(2):  # each task is a new one
            task = file.make_task()
            assert isinstance(task, Scan) and task.pixels[0] == 0
            task.pixels[0] = 7
        del scan


async def test_ignored_exceptions_and_large_tasks_are_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "failures", max_size=100_000)
    flow = make_flow(recorder)
    async with inline(flow):
        await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
        assert await files_of(recorder) == []
        assert flow.statistics().recordings == RecordingStatistics(0, {"too_large": 1})
        flow.recorder = other = Recorder(tmp_path / "failures", ignore=[Unreadable])
        await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
        assert await files_of(other) == []


async def test_a_full_disk_is_logged_and_fails_no_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(tmp_path / "failures")
    flow = make_flow(recorder)
    async with inline(flow):
        recorder.directory.rename(tmp_path / "moved")
        assert isinstance(await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE)), Unreadable)
        assert await asyncio.to_thread(recorder.wait, DEADLINE)
        assert flow.statistics().recordings == RecordingStatistics(0, {"unwritable": 1})
        assert "cannot be the directory of a recorder" in caplog.text


async def test_few_tasks_wait_to_be_written_and_a_stop_waits_for_them(tmp_path: Path) -> None:
    """The disk is slow: `redact` stands for it, which runs in the same thread."""
    gate = Gate(tmp_path)
    recorder = Recorder(tmp_path / "failures", redact=lambda task: gate.enter(), per_minute=100)
    flow = make_flow(recorder)
    async with inline(flow):
        await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
        await eventually(gate.is_entered)
        assert not recorder.wait(0.0)
        for _ in range(10):
            await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
        assert flow.statistics().recordings == RecordingStatistics(0, {"backlog": 2})
        assert blocks(flow) == 9
        asyncio.get_running_loop().call_later(0.05, gate.open)
    assert names(recorder.directory)
    assert len(await files_of(recorder)) == 9


async def test_an_application_has_a_recorder_for_all_its_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQUEDUCT_RECORDER__KEEP", "1")
    own, recorder = Recorder(tmp_path / "own"), Recorder(tmp_path / "failures")
    running_already, flow = make_flow(own), make_flow(own)
    with inline(flow):
        async with inline(running_already), Aqueduct(running_already, flow, recorder=recorder).run(FastAPI()):
            await outcome(running_already.process(Scan(pixels(), "raise"), DEADLINE))
            await outcome(flow.process(Scan(pixels(), "raise"), DEADLINE))
            assert len(await files_of(recorder)) == 1
    assert flow.recorder is running_already.recorder is own
    assert names(own.directory) == []


async def test_a_directory_that_is_open_to_others_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "closed")
    for path, words in {"open": "chmod 700", "link": "follows no symbolic link", "closed/file/x": "Not a dir"}.items():
        (tmp_path / "closed" / "file").touch()
        flow = make_flow(Recorder(tmp_path / path))
        with pytest.raises(RecordingError, match=words):
            await flow.start_async()
        assert flow.state == "stopped"


def test_there_is_no_recorder_by_default() -> None:
    flow = Flow(Read())
    assert flow.recorder is None and Aqueduct(flow).recorder is None


@pytest.mark.parametrize("number", ["keep", "max_size", "per_minute"])
def test_numbers_that_cannot_work_are_refused(number: str, tmp_path: Path) -> None:
    numbers: Any = {number: 0}
    with pytest.raises(ConfigurationError, match=f"{number} > 0"):
        Recorder(tmp_path, **numbers)


def test_other_arguments_that_cannot_work_are_refused(tmp_path: Path) -> None:
    wrong: Any = "customer"
    with pytest.raises(InvalidArgument, match="redact of Recorder must be a function"):
        Recorder(tmp_path, redact=wrong)

    async def redact(task: Scan) -> None: ...

    with pytest.raises(InvalidArgument, match="redact of Recorder runs in a thread, so it is declared with def"):
        Recorder(tmp_path, redact=redact)
    for declare in (lambda: Flow(Read(), recorder=wrong), lambda: Aqueduct(Flow(Read()), recorder=wrong)):
        with pytest.raises(InvalidArgument, match="recorder must be a Recorder, such as"):
            declare()
    with pytest.raises(InvalidArgument, match="classes of exceptions"):
        Recorder(tmp_path, ignore=[wrong])
