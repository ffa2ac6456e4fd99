"""What becomes of jobs when the process that accepted them ends."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, JobFailed, JobState, StoreError, StoreInUse
from fastapi_aqueduct.jobs import ownership
from fastapi_aqueduct.jobs.lock import StoreLock
from fastapi_aqueduct.jobs.queue import JobQueue
from fastapi_aqueduct.testing import inline

from ..support import DEADLINE, eventually, run_script, script_environment, write_script
from . import handlers
from .handlers import Work, Worker
from .support import queue_of

SCRIPT = """
    import asyncio, os, signal
    from pathlib import Path

    from fastapi_aqueduct import JobState
    from tests.jobs.handlers import Work, Worker
    from tests.jobs.support import queue_of

    async def accept():
        worker = Worker(is_open=False)
        async with queue_of(worker, Path(".")) as jobs:
            for name in "abc":
                print((await jobs.submit(Work(name, bytes(100_000)))).id, flush=True)
            while not worker.begun:
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(accept())
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a process that was killed while it ran the first of three jobs."""
    directory = tmp_path_factory.mktemp("killed")
    with pytest.raises(AssertionError):
        run_script(directory, SCRIPT)
    return directory


@pytest.mark.parametrize("max_retries", [1, 0])
async def test_a_kill_of_everything(killed: Path, tmp_path: Path, max_retries: int) -> None:
    """Accepted jobs run at the next start; the one that ran runs again, or has failed where it may run once only."""
    # Without the FIFOs, of which there is no copy.
    shutil.copytree(killed, tmp_path, ignore=shutil.ignore_patterns("*.alive"), dirs_exist_ok=True)
    worker = Worker()
    async with queue_of(worker, tmp_path, max_retries=max_retries) as jobs:
        select = "SELECT id FROM jobs ORDER BY number"
        ids = [job for (job,) in await jobs._store._database.run(lambda found: found.execute(select).fetchall())]
        assert len(ids) == 3
        found = [await asyncio.wait_for(jobs.wait(job), DEADLINE) for job in ids]
        if max_retries:
            assert [status.state for status in found] == ["completed"] * 3
            assert [status.attempts for status in found] == [2, 1, 1]
            assert worker.begun == ["a", "b", "c"]
        else:
            assert [status.state for status in found] == ["failed", "completed", "completed"]
            assert "has died" in (found[0].error or "")
            assert worker.begun == ["b", "c"]


async def test_a_stop_puts_jobs_back(tmp_path: Path) -> None:
    """A graceful stop is no attempt; where a job may run once only, the job has failed."""
    worker = Worker(is_open=False)
    async with queue_of(worker, tmp_path) as jobs:
        job = (await jobs.submit(Work("a"))).id
        await eventually(lambda: worker.begun)
        worker.gate.clear()
    worker.gate.set()
    async with queue_of(worker, tmp_path) as jobs:
        assert (await asyncio.wait_for(jobs[job], DEADLINE)).done == "A"
        assert (await jobs.status(job)).attempts == 1


async def test_jobs_that_cannot_be_read_after_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with queue_of(Worker(), tmp_path) as jobs:
        jobs.pause()
        job = (await jobs.submit(Work("a"))).id
    monkeypatch.delattr(handlers, "Work")
    async with queue_of(Worker(), tmp_path) as jobs:
        with pytest.raises(JobFailed, match="cannot be read any more: AttributeError.*Work"):
            await asyncio.wait_for(jobs[job], DEADLINE)


async def test_jobs_of_a_flow_that_has_gone(tmp_path: Path) -> None:
    async with queue_of(Worker(), tmp_path) as jobs:
        jobs.pause()
        job = (await jobs.submit(Work("a"))).id
    other = Flow(Worker(), name="other")
    async with inline(other):
        jobs = JobQueue(tmp_path / "jobs.db")
        await jobs.start([other])
        status = await jobs.status(job)
        assert status.state is JobState.FAILED
        assert status.error == "its flow flow is none of this application"
        await jobs.stop()


async def test_a_second_process_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a graceful stop takes; then it does not start."""
    first = Flow(Worker(), stop_timeout=0.0)
    async with inline(first):
        owner, second = JobQueue(tmp_path / "jobs.db"), JobQueue(tmp_path / "jobs.db")
        await owner.start([first])
        waiting = asyncio.create_task(second.start([first]))
        await eventually(lambda: second._ownership._lock._reader is not None)
        await owner.stop()
        await asyncio.wait_for(waiting, DEADLINE)
        monkeypatch.setattr(ownership, "STOP_SLACK", 0.05)
        with pytest.raises(StoreInUse, match="another process runs the jobs"):
            await owner.start([first])
        await second.stop()


async def test_a_lock_of_a_process_that_is_killed(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from fastapi_aqueduct.jobs.lock import StoreLock

        assert StoreLock(Path(".")).take()
        Path("taken").touch()
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    write_script(tmp_path, script)
    command = [sys.executable, "main.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=script_environment(), stdin=subprocess.PIPE) as process:
        await eventually((tmp_path / "taken").exists)
        lock = StoreLock(tmp_path)
        assert not await lock.wait(0.01)
        waiting = asyncio.create_task(lock.wait(DEADLINE))
        await eventually(lambda: lock._reader is not None)
        assert process.stdin is not None
        process.stdin.close()
        assert await waiting
        lock.release()


async def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database, but something else" * 100)
    with pytest.raises(StoreError, match="jobs.db cannot be used: file is not a database"):
        async with queue_of(Worker(), tmp_path):
            raise AssertionError
    (tmp_path / "jobs.db").write_bytes(b"")
    (tmp_path / "jobs.db").chmod(0o666)
    with pytest.raises(StoreError, match="jobs.db can be written by other users"):
        async with queue_of(Worker(), tmp_path):
            raise AssertionError
    (tmp_path / "jobs.db").unlink()
    (tmp_path / "jobs.db-files").chmod(0o777)
    with pytest.raises(StoreError, match="written by other users"):
        async with queue_of(Worker(), tmp_path):
            raise AssertionError
