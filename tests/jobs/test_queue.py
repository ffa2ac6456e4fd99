"""The queue of jobs, as code uses it."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastapi_aqueduct import (
    ConfigurationError,
    Flow,
    FlowStep,
    JobCancelled,
    JobFailed,
    JobItem,
    JobNotFinished,
    JobNotFound,
    JobState,
    JobStatus,
    Progress,
    StoreFull,
    TooManyJobs,
    UsageError,
)
from fastapi_aqueduct.jobs import journal
from fastapi_aqueduct.jobs.options import JobOptions
from fastapi_aqueduct.jobs.queue import JobQueue
from fastapi_aqueduct.testing import inline

from ..support import DEADLINE, eventually, forked
from . import handlers
from .handlers import Add, Assemble, Counter, Deaf, Fragile, Part, Scan, Work, Worker
from .support import queue_of


async def test_a_job_in_code(tmp_path: Path) -> None:
    async with queue_of(Worker(), tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        done = await asyncio.wait_for(job, DEADLINE)
        assert done.done == "A"
        assert (await jobs[job.id].refresh()).state is JobState.COMPLETED
        assert (await jobs[job.id].result()).done == "A"
        assert not await job.cancel()
        with pytest.raises(UsageError, match="refresh"):
            assert jobs[job.id].status
        with pytest.raises(JobNotFound):
            await jobs["0" * 32]


async def test_large_fields_go_to_files_of_the_user(tmp_path: Path) -> None:
    """What the task holds of shared memory or of the heap is a view on a file when the job runs, and in its result."""
    async with queue_of(Add(), tmp_path) as jobs:
        job = await jobs.submit(Scan(memoryview(b"\1" * 100_000), 2))
        scan = await asyncio.wait_for(job, DEADLINE)
        assert scan.total == 200_000
        assert scan.image == b"\1" * 100_000
        files = {entry: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.rglob("*") if entry.is_file()}
        assert set(files.values()) == {0o600}
        assert [entry.name for entry in files if job.id in entry.name] == [f"{job.id}.result"]
        assert stat.S_IMODE(os.stat(tmp_path / "jobs.db-files").st_mode) == 0o700


async def test_a_job_that_fails(tmp_path: Path) -> None:
    async with queue_of(Worker(), tmp_path) as jobs:
        job = await jobs.submit(Work("bad"))
        with pytest.raises(JobFailed, match="ValueError: bad work"):
            await asyncio.wait_for(job, DEADLINE)
        assert (await job.refresh()).error == "ValueError: bad work"
        with pytest.raises(JobFailed, match=r"ValueError: a name: \\udcff"):
            await asyncio.wait_for(await jobs.submit(Work("bad", "a name: \udcff")), DEADLINE)


async def test_a_job_goes_through_a_group(tmp_path: Path) -> None:
    left, right = Part("left"), Part("right")
    flow = Flow(Worker(), [left, right], Assemble(), stop_timeout=0.0)
    async with queue_of(flow, tmp_path) as jobs:
        cancelled = await jobs.submit(Work("a"))
        await eventually(lambda: left.begun.is_set() and right.begun.is_set())
        assert await cancelled.cancel()
        await eventually(lambda: left.saw_cancel.is_set() and right.saw_cancel.is_set())
        assert (await cancelled.refresh()).state is JobState.CANCELLED
        left.gate.set()
        right.gate.set()
        job = await jobs.submit(Work("b"))
        assert (await asyncio.wait_for(job, DEADLINE)).done == "left and right of b"
        items = [change.value async for change in job.follow() if isinstance(change, JobItem)]
        assert sorted(items) == ["left", "right"]
        with pytest.raises(JobFailed, match="FieldConflict: field 'same' of a task"):
            await asyncio.wait_for(await jobs.submit(Work("conflict")), DEADLINE)


async def test_the_queue_and_its_end(tmp_path: Path) -> None:
    """Jobs wait in their order, one in the flow at a time; a cancelled one is taken out, or hears of it."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path, max_pending=3) as jobs:
        first, second, third = [await jobs.submit(Work(name)) for name in "abc"]
        await eventually(lambda: worker.begun)
        assert (await first.refresh()).state is JobState.RUNNING
        assert (await second.refresh()).position == 0
        assert (await third.refresh()).position == 1
        with pytest.raises(JobNotFinished):
            await first.result()
        with pytest.raises(TooManyJobs, match="max_pending=3"):
            await jobs.submit(Work("d"))
        assert await second.cancel()
        assert (await third.refresh()).position == 0
        assert await first.cancel()
        await asyncio.to_thread(handlers.wait_for, worker.saw_cancel)
        with pytest.raises(JobCancelled):
            await first
        worker.gate.set()
        assert (await asyncio.wait_for(third, DEADLINE)).done == "C"
        assert worker.begun == ["a", "c"]
        assert (await first.refresh()).state is JobState.CANCELLED


async def test_a_number_of_jobs_at_a_time(tmp_path: Path) -> None:
    """At the lowest priority, whatever that of the task is."""
    worker = Worker(is_open=False)
    flow = Flow(worker, queue_priorities=2, stop_timeout=0.0)
    async with inline(flow):
        jobs = JobQueue(tmp_path / "jobs.db", max_running=2)
        await jobs.start([flow])
        accepted = []
        for name in "abc":
            task = Work(name)
            task.set_priority(1)
            accepted.append(await jobs.submit(task))
        await eventually(lambda: flow.statistics().in_flight == 2)
        assert (await accepted[2].refresh()).state is JobState.QUEUED
        worker.gate.set()
        done = [await asyncio.wait_for(job, DEADLINE) for job in accepted]
        assert [task.priority for task in done] == [0, 0, 0]
        await jobs.stop()


async def test_progress_and_items(tmp_path: Path) -> None:
    async with queue_of(Counter(), tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        found = [change async for change in job.follow()]
        assert [change.value for change in found if isinstance(change, JobItem)] == [{"number": n} for n in range(3)]
        last = found[-1]
        assert isinstance(last, JobStatus)
        assert last.state is JobState.COMPLETED
        assert last.progress == Progress(3, 3)
        again = [change async for change in job.follow(after=2)]
        assert again == [JobItem(3, {"number": 2}), last]


async def test_the_items_of_a_job_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_ITEMS", 2)
    async with queue_of(Counter(), tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        await asyncio.wait_for(job, DEADLINE)
        assert [change.number async for change in job.follow() if isinstance(change, JobItem)] == [2, 3]


async def test_a_job_that_is_over_is_removed(tmp_path: Path) -> None:
    async with queue_of(Add(), tmp_path, keep_for=0.01) as jobs:
        job = await jobs.submit(Scan(memoryview(bytes(50_000))))
        with pytest.raises(JobNotFound):
            async with asyncio.timeout(DEADLINE):
                while True:
                    await job.wait()
                    await asyncio.sleep(0.01)
        await eventually(lambda: not list((tmp_path / "jobs.db-files").glob("*.result")))


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """The limit is one of SQLite itself, which reports it as it does a full disk."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        await eventually(lambda: worker.begun)

        async def limit(pages: int) -> None:
            await jobs._store._database.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}"))

        await limit(1)
        with pytest.raises(StoreFull, match="no space is left"):
            for number in range(1000):
                await jobs.submit(Work(str(number), "x" * 10_000))
        await limit(1 << 30)
        worker.gate.set()
        assert (await asyncio.wait_for(job, DEADLINE)).done == "A"


async def test_a_worker_that_dies(tmp_path: Path) -> None:
    """The job runs again, though an item of it has come; without retries it has failed."""
    flow = forked(Fragile(), name="fragile")
    async with flow:
        jobs = JobQueue(tmp_path / "jobs.db", max_retries=1)
        await jobs.start([flow])
        job = await jobs.submit(Work("a", str(tmp_path / "marker")))
        assert (await asyncio.wait_for(job, DEADLINE)).done == "at last"
        assert (await job.refresh()).attempts == 2
        # A client that has the item of the first attempt gets that of the second.
        assert [change.number async for change in job.follow(after=1) if isinstance(change, JobItem)] == [2]
        await jobs.stop()
        once = JobQueue(tmp_path / "once.db", max_retries=0)
        await once.start([flow])
        with pytest.raises(JobFailed, match="WorkerDied"):
            await asyncio.wait_for(await once.submit(Work("a", str(tmp_path / "other"))), DEADLINE)
        await once.stop()


async def test_a_job_that_takes_too_long(tmp_path: Path) -> None:
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path, job_timeout=0.05) as jobs:
        with pytest.raises(JobFailed, match="TaskTimeout"):
            await asyncio.wait_for(await jobs.submit(Work("a")), DEADLINE)
        worker.gate.set()


async def test_a_queue_that_does_not_run(tmp_path: Path) -> None:
    jobs = JobQueue(tmp_path / "jobs.db")
    with pytest.raises(UsageError, match="Aqueduct"):
        await jobs.submit(Work("a"))
    assert not list(tmp_path.iterdir())


async def test_two_processes_of_one_pipeline(tmp_path: Path) -> None:
    """Both accept jobs and tell of them; when the one that runs them ends, the other one takes over."""
    worker = Worker(is_open=False)
    flow = Flow(worker, stop_timeout=0.0)
    async with inline(flow):
        owner, guest = JobQueue(tmp_path / "jobs.db"), JobQueue(tmp_path / "jobs.db")
        await owner.start([flow], is_shared=True)
        await guest.start([flow], is_shared=True)
        job = await guest.submit(Work("a"))
        await eventually(lambda: worker.begun == ["a"])
        waiting = asyncio.create_task(guest.wait(job.id))
        worker.gate.set()
        assert (await asyncio.wait_for(waiting, DEADLINE)).state is JobState.COMPLETED
        worker.gate.clear()
        cancelled = await guest.submit(Work("b"))
        await eventually(lambda: worker.begun == ["a", "b"])
        assert await cancelled.cancel()
        await asyncio.to_thread(handlers.wait_for, worker.saw_cancel)
        worker.gate.set()
        await owner.stop()
        assert (await asyncio.wait_for(await guest.submit(Work("c")), DEADLINE)).done == "C"
        await guest.stop()


async def test_a_server_that_stops_ends_the_waits(tmp_path: Path) -> None:
    """Open responses hold up its stop; the job goes on."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        followed = aiter(job.follow())
        await anext(followed)
        waiting = [asyncio.create_task(job.wait()), asyncio.create_task(_rest(followed))]
        await asyncio.sleep(0)
        jobs.end_waits()
        await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)
        assert not job.status.is_finished
        assert not worker.saw_cancel.is_set()
        worker.gate.set()


async def _rest(changes: AsyncIterator[object]) -> list[object]:
    return [change async for change in changes]


async def test_a_handler_that_ignores_its_cancellation(tmp_path: Path) -> None:
    """It is killed after its handle_timeout, and the next job runs."""
    flow = forked(FlowStep(Deaf(), handle_timeout=1), name="deaf")
    async with flow:
        jobs = JobQueue(tmp_path / "jobs.db")
        await jobs.start([flow])
        job = await jobs.submit(Work("a", str(tmp_path / "deaf")))
        await eventually((tmp_path / "deaf").exists)
        assert await job.cancel()
        assert (await asyncio.wait_for(await jobs.submit(Work("b")), 2 * DEADLINE)).done == "B"
        await jobs.stop()


async def test_a_submission_that_is_cancelled(tmp_path: Path) -> None:
    """The job is in the store with its file and begins, or there is neither."""
    worker = Worker()
    async with queue_of(worker, tmp_path) as jobs:
        for _ in range(20):
            submission = asyncio.create_task(jobs.submit(Work("a", bytes(20_000))))
            for _ in range(3):
                await asyncio.sleep(0)
            submission.cancel()
            await asyncio.wait([submission])
        await asyncio.wait_for(await jobs.submit(Work("b")), DEADLINE)
        await eventually(lambda: not jobs._changing)
        select = "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')"

        async def pending() -> int:
            return int(await jobs._store._value(select))

        async with asyncio.timeout(DEADLINE):
            while await pending():
                await asyncio.sleep(0.01)
        await eventually(lambda: not list((tmp_path / "jobs.db-files").glob("*.task")))


async def test_a_cancellation_that_is_cancelled(tmp_path: Path) -> None:
    """A job that is cancelled in the store hears of it, also when its caller has not waited for that."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        await eventually(lambda: worker.begun)
        cancelling = asyncio.create_task(job.cancel())
        while not jobs._changing:
            await asyncio.sleep(0)
        cancelling.cancel()
        await asyncio.to_thread(handlers.wait_for, worker.saw_cancel)
        worker.gate.set()


async def test_a_file_that_cannot_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It keeps no caller from hearing that the job has ended."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = await jobs.submit(Work("a"))
        (tmp_path / "jobs.db-files" / f"{job.id}.task").mkdir()
        worker.gate.set()
        assert (await asyncio.wait_for(job, DEADLINE)).done == "A"
    assert f"{job.id}.task of a job cannot be removed: [Errno 21] Is a directory" in caplog.text


async def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    """Jobs that were put back run, and those that have ended expire."""
    async with queue_of(Worker(), tmp_path) as jobs:
        ended = (await jobs.submit(Work("a"))).id
        await asyncio.wait_for(jobs.wait(ended), DEADLINE)
        jobs.pause()
        await jobs.submit(Work("b"))
        later = f"UPDATE jobs SET not_before = {time.time() + 1e6}, finished_at = finished_at + 1e6"
        await jobs._store._database.run(lambda connection: connection.execute(later))
    worker = Worker()
    async with queue_of(worker, tmp_path, keep_for=0.01) as jobs:
        await eventually(lambda: worker.begun == ["b"])
        with pytest.raises(JobNotFound):
            async with asyncio.timeout(DEADLINE):
                while await jobs.status(ended):
                    await asyncio.sleep(0.01)


async def test_numbers_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_JOBS__MAX_PENDING", "7")
    async with queue_of(Worker(), tmp_path, max_retries=1) as jobs:
        assert jobs.options == JobOptions(max_pending=7, max_retries=1)
    monkeypatch.setenv("AQUEDUCT_JOBS__MAX_RUN", "7")
    with pytest.raises(ConfigurationError, match="did you mean AQUEDUCT_JOBS__MAX_RUNNING"):
        async with queue_of(Worker(), tmp_path):
            raise AssertionError


async def test_a_disk_that_is_full_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job is refused, and leaves no file; one that ends meanwhile waits with its result.

    The limit is that of the kernel for the size of a file, which it reports much as it does a full disk.
    """
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = await jobs.submit(Work("a", bytes(1 << 22)))
        await eventually(lambda: worker.begun)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, hard))
        try:
            with pytest.raises(StoreFull, match="no space is left for the files of jobs"):
                await jobs.submit(Work("b", bytes(1 << 22)))
            assert [file.name for file in (tmp_path / "jobs.db-files").glob("*.task")] == [f"{job.id}.task"]
            worker.gate.set()
            await eventually(lambda: "its end cannot be stored" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (await asyncio.wait_for(job, DEADLINE)).done == "A"
