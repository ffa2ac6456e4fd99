"""Workers that die, and the death of the process they work for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Flow, FlowStep, WorkerDied

from .. import handlers
from ..handlers import Each, Gate, Job, StartingOnce
from ..support import (
    DEADLINE,
    LongestGap,
    blocks,
    eventually,
    outcome,
    pids,
    running,
    script_environment,
    write_script,
)


@pytest.mark.parametrize(
    ("function", "fields", "exit_code", "words"),
    [
        (handlers.kill_itself, {"signal": signal.SIGKILL}, -9, "was killed by SIGKILL"),
        (handlers.kill_itself, {"signal": signal.SIGSEGV}, -11, "was killed by SIGSEGV"),
        (handlers.kill_itself, {"signal": signal.SIGTERM}, -15, "was killed by SIGTERM"),
        (handlers.exit_at_once, {"code": 0}, 0, "exited with code 0"),
        (handlers.exit_at_once, {"code": 3}, 3, "exited with code 3"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_the_error_says_how_the_worker_ended(function: Any, fields: Any, exit_code: int, words: str) -> None:
    async with running(Flow(FlowStep(Each(function), max_retries=0), name="ocr")) as flow:
        (pid,) = pids(flow)
        died = await asyncio.wait_for(outcome(flow.process(Job(**fields), 300)), DEADLINE)
        assert isinstance(died, WorkerDied)
        assert (died.step, died.pid, died.exit_code) == ("step1_Each", pid, exit_code)
        assert f"step step1_Each (pid {pid}) {words}" in str(died)


async def test_only_the_tasks_of_the_dead_worker_fail_and_at_once(tmp_path: Path) -> None:
    step = FlowStep(Each(handlers.enter_gate, handlers.tell_pid), nprocs=3, max_retries=0)
    async with running(Flow(step)) as flow:
        gates = [Gate(tmp_path, str(number)) for number in range(3)]
        tasks = [asyncio.create_task(outcome(flow.process(Job(gate=gate), 300))) for gate in gates]
        await eventually(lambda: all(gate.is_entered() for gate in gates))
        victim, *survivors = pids(flow)
        async with LongestGap() as gap:
            os.kill(victim, signal.SIGKILL)
            (ended,), waiting = await asyncio.wait(tasks, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(ended.result(), WorkerDied)
        assert ended.result().pid == victim
        assert gap.seconds < 1.0
        for gate in gates:
            gate.open()
        assert sorted([(await task).pid for task in waiting]) == sorted(survivors)
        assert flow.statistics().failed == 1


async def test_tasks_that_wait_outlive_the_worker_and_go_to_its_replacement(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(handlers.enter_gate_if_any, handlers.tell_pid), max_retries=0))) as flow:
        (pid,) = pids(flow)
        gate = Gate(tmp_path)
        held = asyncio.create_task(outcome(flow.process(Job(gate=gate), 300)))
        await eventually(gate.is_entered)
        waiting = [asyncio.create_task(flow.process(Job(), 60)) for _ in range(5)]
        await eventually(lambda: flow.statistics().steps[0].queued == 5)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await held, WorkerDied)
        replacements = {(await task).pid for task in waiting}
        assert replacements == set(pids(flow))
        assert pid not in replacements
        assert flow.statistics().steps[0].restarts == 1


async def test_a_death_in_a_later_step_names_that_step() -> None:
    flow = Flow(Each(handlers.set_result), Each(handlers.kill_itself))
    async with running(flow):
        died = await outcome(flow.process(Job(number=1, signal=signal.SIGKILL), 30))
        assert isinstance(died, WorkerDied)
        assert died.step == "step2_Each"


async def test_an_idle_worker_that_is_killed_is_replaced_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Flow(FlowStep(Each(handlers.tell_pid), nprocs=2), name="ocr")) as flow:
        one, other = pids(flow)
        with caplog.at_level(logging.ERROR, "fastapi_aqueduct"):
            os.kill(one, signal.SIGKILL)
            await eventually(lambda: len(pids(flow)) == 2 and one not in pids(flow))
        assert other in pids(flow)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert f"worker of step1_Each in flow ocr (pid {one}) was killed by SIGKILL" in record.getMessage()


async def test_a_replacement_that_cannot_start_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "broken"
    async with running(Flow(StartingOnce(handlers.fail_to_load, broken))) as flow:
        broken.touch()
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: flow.statistics().steps[0].restarts >= 2)
        broken.unlink()
        await eventually(lambda: pids(flow))
        assert (await flow.process(Job())).pid == pids(flow)[0]
    assert "no model here" in caplog.text


async def test_a_full_default_executor_does_not_stop_replacements() -> None:
    """An application may have more to do in threads than there are."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    async with running(Flow(Each(handlers.tell_pid))) as flow:
        held = asyncio.create_task(asyncio.to_thread(release.wait, DEADLINE))
        try:
            (pid,) = pids(flow)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: pids(flow) not in ([], [pid]))
        finally:
            release.set()
            assert await held


async def test_a_worker_that_is_being_launched_has_no_pid_yet() -> None:
    flow = Flow(Each(handlers.pass_on))
    start = asyncio.create_task(flow.start_async())
    while not (workers := flow.statistics().steps[0].workers):
        await asyncio.sleep(0)
    assert [(worker.pid, worker.state) for worker in workers] == [(None, "starting")]
    await start
    assert flow.statistics().steps[0].workers[0].pid
    await flow.stop()


async def test_all_workers_die_at_once(tmp_path: Path) -> None:
    step = FlowStep(Each(handlers.enter_gate_if_any, handlers.tell_pid), nprocs=4, max_retries=0)
    async with running(Flow(step)) as flow:
        gates = [Gate(tmp_path, str(number)) for number in range(4)]
        tasks = [asyncio.create_task(outcome(flow.process(Job(gate=gate), 300))) for gate in gates]
        await eventually(lambda: all(gate.is_entered() for gate in gates))
        before = pids(flow)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        died = await asyncio.gather(*tasks)
        assert sorted(error.pid for error in died) == sorted(before)
        await eventually(lambda: len(pids(flow)) == 4)
        assert not set(before) & set(pids(flow))
        assert (await flow.process(Job())).pid in pids(flow)


async def test_a_stop_while_a_replacement_starts(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    flow = Flow(StartingOnce(handlers.never_end, slow))
    await flow.start_async()
    slow.touch()
    os.kill(pids(flow)[0], signal.SIGKILL)
    await eventually(lambda: flow.statistics().steps[0].restarts == 1)
    await eventually(lambda: [worker.state for worker in flow.statistics().steps[0].workers] == ["starting"])
    await asyncio.wait_for(flow.stop(), DEADLINE)


async def test_a_storm_of_kills_loses_no_task_and_mixes_up_none() -> None:
    """Workers are killed one after the other while tasks with a picture each go through two steps."""
    steps = FlowStep(Each(handlers.make_large), nprocs=2), FlowStep(Each(handlers.sum_up), nprocs=2, batch_size=4)
    async with running(Flow(*steps)) as flow:
        finished = died = 0

        async def client(number: int) -> None:
            nonlocal finished, died
            while finished < 400:
                task = Job(number=number, size=20_000 + number)
                try:
                    await flow.process(task, 60)
                except WorkerDied:
                    died += 1
                else:
                    assert task.total == number % 251 * task.size
                    assert len(task.image) == task.size
                    finished += 1

        async def kill() -> None:
            for round_number in range(8):
                await eventually(lambda: len(pids(flow, round_number % 2)) == 2)  # noqa: B023
                os.kill(pids(flow, round_number % 2)[0], signal.SIGKILL)

        await asyncio.gather(kill(), *[client(number) for number in range(1, 25)])
        assert finished >= 400
        assert flow.statistics().in_flight == 0
        assert flow.statistics().failed == died


# Shared memory of the dead


async def test_a_task_that_died_with_its_worker_returns_its_blocks(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.make_large, handlers.kill_itself))) as flow:
        task = Job(payload=b"x" * 1_000_000, number=1, size=500_000, signal=signal.SIGKILL)
        assert isinstance(await outcome(flow.process(task, 30)), WorkerDied)
        del task
        await eventually(lambda: blocks(flow) == 0)
        assert flow.statistics().arena.used == 0


async def test_results_of_a_dead_worker_stay_valid_beside_those_of_its_replacement() -> None:
    async with running(Flow(Each(handlers.make_large, handlers.tell_pid))) as flow:
        first = await flow.process(Job(number=7, size=100_000))
        victim = first.pid
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: pids(flow) not in ([], [victim]))
        others = [await flow.process(Job(number=9, size=100_000)) for _ in range(5)]
        assert (first.image == 7).all()
        assert all((other.image == 9).all() for other in others)
        del first, others


async def test_ctrl_c_reaches_the_service_alone_and_it_stops_in_order(tmp_path: Path) -> None:
    source = """
        import asyncio
        from fastapi_aqueduct import Flow
        from tests.handlers import Noting

        async def main():
            async with Flow(Noting("life")) as flow:
                print("ready")
                await asyncio.Event().wait()

        if __name__ == "__main__":
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                print("stopped")
    """
    script = write_script(tmp_path, source)
    with subprocess.Popen(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
            os.killpg(service.pid, signal.SIGINT)  # as a terminal does
            assert service.stdout.readline() == "stopped\n"
            assert service.wait(DEADLINE) == 0
        finally:
            service.kill()
    assert handlers.notes(tmp_path / "life") == ["start", "stop"]
