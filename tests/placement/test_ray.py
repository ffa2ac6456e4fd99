"""Steps in actors, on a cluster of two nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import (
    Autoscale,
    BaseTaskHandler,
    Flow,
    FlowStep,
    NotShareable,
    RayActor,
    StartError,
    StepUnavailable,
    TaskTimeout,
    WorkerDied,
    WorkerOptions,
)
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.exceptions import WorkerTraceback

from ..handlers import Gate, notes
from ..support import blocks, eventually, forked, outcome, pids, script_environment, wait_until, write_script
from .handlers import Beside, Broken, Call, Checked, Count, Remote, Twice, has_both, request_id
from .nodes import FAR, NEAR, Cluster

pytestmark = pytest.mark.long

PATIENCE = 90.0
"""Seconds for what includes a start of a process of Ray, on a busy machine."""


def placed(cluster: Cluster, handler: BaseTaskHandler, node: str = FAR, **options: Any) -> FlowStep:
    placement = RayActor(address=cluster.address, num_cpus=0, resources={node: 1})
    return FlowStep(handler, name="remote", worker=WorkerOptions(placement=placement), **options)


@contextlib.asynccontextmanager
async def running(*steps: Any, **options: Any) -> AsyncIterator[Flow]:
    flow = forked(*steps, start_timeout=PATIENCE, **options)
    await flow.start_async()
    try:
        yield flow
        await eventually(lambda: blocks(flow) == 0)
    except BaseException:
        await flow.stop(graceful=False)
        raise
    await flow.stop()


async def call(flow: Flow, deed: str = "nothing", value: Any = None, timeout: float = PATIENCE) -> Call:
    task = Call(deed, value)
    await flow.process(task, timeout)
    return task


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


@pytest.mark.parametrize("node", [NEAR, FAR])
async def test_tasks_travel_to_the_actor_and_back(
    cluster: Cluster, tmp_path: Path, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(placed(cluster, Remote(tmp_path), node), name="placed", context=[request_id]) as flow:
        done = await call(flow)
        assert done.node == node
        assert [str(done.pid)] == notes(tmp_path / "started")
        assert done.pid not in pids(flow)
        for size in (1 << 20, 16 << 20):
            sent = np.random.default_rng(size).integers(0, 1 << 60, size // 8)
            for deed, expected in (("double", sent * 2), ("keep", sent)):
                done = await call(flow, deed, sent)
                assert np.array_equal(done.result, expected)
                assert np.array_equal(done.value, sent)
            assert (await call(flow, "keep", sent.tobytes())).result == sent.tobytes()
            del done
        request_id.set("r1")
        assert (await call(flow, "context")).result == "r1"
        assert 4 < (await call(flow, "remaining", timeout=5)).result <= 5
        done = await call(flow, "remaining", timeout=30)
        assert done.expiration_time is not None
        assert 20 < done.expiration_time - time.monotonic() <= 30
        said = await call(flow, "say", "hello")
        (record,) = [record for record in caplog.records if record.msg == "said %s"]
        assert (record.args, record.step, record.task_id) == (("hello",), "remote", said.task_id)  # type: ignore[attr-defined]
        assert "started first" in caplog.text
        assert [record.name for record in caplog.records if record.name.startswith("ray")] == []


async def test_an_actor_works_in_a_group(cluster: Cluster, tmp_path: Path) -> None:
    """What it has set is joined; also if that is what it got."""
    left, right = (FlowStep(Beside(name), name=name) for name in ("left", "right"))
    async with running([placed(cluster, Remote(tmp_path)), left], right) as flow:
        for size, deed in ((10, "double"), (1 << 18, "double"), (1 << 18, "keep")):
            sent = np.arange(size)
            task: Any = await call(flow, deed, sent)
            assert task.node == FAR
            assert np.array_equal(task.result, sent * 2 if deed == "double" else sent)
            assert task.left_sum == task.right_sum == sent.sum()
            assert np.array_equal(task.left_value, sent) and np.array_equal(task.value, sent)
            del task


async def test_an_actor_behind_a_group_evaluates_its_condition(cluster: Cluster, tmp_path: Path) -> None:
    left, right = (FlowStep(Beside(name), name=name) for name in ("left", "right"))
    remote = placed(cluster, Remote(tmp_path), handle_condition=has_both)
    async with running([left, right], remote) as flow:
        for size in (11, 12, 1 << 18, (1 << 18) + 1):
            task: Any = await call(flow, "double", np.ones(size, int))
            assert task.left_sum == task.right_sum == size
            assert (task.node == FAR, task.result is not None) == (size % 2 == 1, size % 2 == 1)
            del task


async def test_an_actor_tells_how_its_model_is(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "ill").touch()
    async with running(placed(cluster, Checked(tmp_path)), timing=Timing(check_interval=0.1)) as flow:

        def problems() -> tuple[str, ...]:
            return flow.statistics().steps[0].problems

        assert problems() == ("check() returned False",)
        (tmp_path / "ill").unlink()
        await eventually(lambda: not problems())
        (tmp_path / "ill").touch()
        await eventually(problems)
        assert (await call(flow)).node == FAR  # the worker goes on


async def test_errors_arrive_as_themselves(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path), batch_size=3, batch_timeout=0.5)) as flow:
        with pytest.raises(ValueError) as caught:
            await call(flow, "fail", 3)
        assert caught.value.args == ("not a picture", 3)
        assert caught.traceback[-1].name == "fail"
        assert isinstance(caught.value.__cause__, WorkerTraceback)
        assert 'raise ValueError("not a picture", value)' in str(caught.value.__cause__)
        alone, *others = await asyncio.gather(*map(outcome, [call(flow, "fail_alone", 1), call(flow), call(flow)]))
        assert isinstance(alone, KeyError)
        assert [other.size for other in others] == [3, 3]
        bad, *good = await asyncio.gather(*map(outcome, [call(flow, "fail", 1), call(flow), call(flow)]))
        assert isinstance(bad, ValueError)
        assert [other.size for other in good] == [1, 1]  # tried again alone
        shared = Call("nothing", np.zeros(100_000))
        shared.share_value("value")
        with pytest.raises(NotShareable, match="runs in an actor"):
            await flow.process(shared, PATIENCE)
        with pytest.raises(NotShareable, match="runs in an actor"):
            await call(flow, "share", np.zeros(100_000))
        del shared


async def test_a_second_batch_travels_while_one_is_worked_on(cluster: Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(placed(cluster, Remote(tmp_path), batch_size=2)) as flow:
        held = asyncio.create_task(call(flow, "wait", gate))
        await eventually(gate.is_entered)
        calls = [asyncio.create_task(call(flow)) for _ in range(3)]
        (step,) = flow.statistics().steps
        await eventually(lambda: flow.statistics().steps[0].workers[0].in_flight == 3)
        assert flow.statistics().steps[0].queued == 1  # a batch that is not full waits for others
        gate.open()
        await held
        assert [task.size for task in await asyncio.gather(*calls)] == [2, 2, 1]


async def test_callers_that_leave_do_not_wait(cluster: Cluster, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, name) for name in ("one", "two")]
    async with running(placed(cluster, Remote(tmp_path))) as flow:
        leaving = asyncio.create_task(call(flow, "wait", gates[0]))
        await eventually(gates[0].is_entered)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gates[0].open()
        late = asyncio.create_task(call(flow, "wait", gates[1], timeout=1.0))
        with pytest.raises(TaskTimeout):
            await late
        gates[1].open()
        assert (await call(flow)).node == FAR


async def test_the_death_of_an_actor_is_that_of_its_worker(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path))) as flow:
        first = await call(flow)
        (worker,) = pids(flow)
        os.kill(first.pid, signal.SIGKILL)  # while it is idle
        await eventually(lambda: worker not in pids(flow), PATIENCE)
        second = await call(flow)
        assert second.pid != first.pid
        gate = Gate(tmp_path)
        held = asyncio.create_task(call(flow, "wait", gate))
        await eventually(gate.is_entered)
        os.kill(second.pid, signal.SIGKILL)
        gate.open()
        assert (await held).pid not in (first.pid, second.pid)  # tried again
        with pytest.raises(WorkerDied):
            await call(flow, "die")
        assert (await call(flow)).node == FAR
        assert flow.statistics().steps[0].restarts == 4


async def test_an_actor_that_hangs_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path), handle_timeout=3.0, max_retries=0)) as flow:
        pid = (await call(flow)).pid
        begun = time.monotonic()
        with pytest.raises(WorkerDied, match="handle_timeout=3 s"):
            await call(flow, "freeze")
        assert 3 < time.monotonic() - begun < 10
        assert (await call(flow)).pid != pid
        assert wait_until(lambda: not is_alive(pid), PATIENCE)


async def test_a_node_that_fails_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path))) as flow:
        pid = (await call(flow)).pid
        try:
            cluster.kill_far()
            await eventually(lambda: not pids(flow), PATIENCE)
            assert not is_alive(pid)
            with pytest.raises((TaskTimeout, StepUnavailable)):
                await call(flow, timeout=2.0)
        finally:
            cluster.start_far()
        await eventually(lambda: pids(flow), PATIENCE)
        assert (await call(flow)).node == FAR


async def test_a_stop_waits_for_the_tasks_in_hand(cluster: Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(placed(cluster, Remote(tmp_path), nprocs=2)) as flow:
        held = asyncio.create_task(call(flow, "wait", gate))
        await eventually(gate.is_entered)
        stopping = asyncio.create_task(flow.stop())
        await eventually(lambda: flow.state == "stopping")
        gate.open()
        assert (await held).result is False
        await stopping
        started, stopped = notes(tmp_path / "started"), notes(tmp_path / "stopped")
        assert sorted(started) == sorted(stopped)
        assert wait_until(lambda: not any(is_alive(int(pid)) for pid in started), PATIENCE)


async def test_workers_are_replaced_recycled_and_tried_out(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path), max_tasks=5)) as flow:
        first = await call(flow, "told_version")
        assert first.result == "first"
        await flow.steps["remote"].replace(Remote(tmp_path, "second"))
        second = await call(flow, "told_version")
        assert (second.result, second.pid != first.pid) == ("second", True)
        for _ in range(4):
            await call(flow)
        await eventually(lambda: flow.statistics().steps[0].recycled == 1, PATIENCE)
        assert (await call(flow)).pid not in (first.pid, second.pid)
        async with flow.steps["remote"].canary(Remote(tmp_path, "third"), share=0.5) as canary:
            told = {(await call(flow, "told_version")).result for _ in range(8)}
            assert told == {"second", "third"}
            assert canary is not None


async def test_a_shadow_has_an_actor_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path))) as flow:
        async with flow.steps["remote"].shadow(Remote(tmp_path, "second")) as shadow:
            sent = np.arange(1 << 17)
            done = await call(flow, "double", sent)
            pair = await anext(shadow)
            first, second = done.pid, pair.candidate.pid
            assert np.array_equal(done.result, sent * 2)
            assert np.array_equal(pair.candidate.result, done.result)
            assert (pair.baseline.pid, pair.candidate.node) == (first, FAR)
            assert sorted(notes(tmp_path / "started")) == sorted(map(str, (first, second)))
            assert (await call(flow, "told_version")).result == "first"
            pair = await anext(shadow)
            assert (pair.baseline.result, pair.candidate.result) == ("first", "second")
            del done, pair
            os.kill(second, signal.SIGKILL)
            assert (await call(flow, "told_version")).result == "first"
            await eventually(lambda: len(notes(tmp_path / "started")) == 3, PATIENCE)
        third = int(notes(tmp_path / "started")[2])
        assert wait_until(lambda: not is_alive(third), PATIENCE)
        assert (await call(flow)).pid == first


async def test_a_step_sleeps_and_wakes(cluster: Cluster, tmp_path: Path) -> None:
    async with running(placed(cluster, Remote(tmp_path), nprocs=Autoscale(0, 1, idle_after=1.0))) as flow:
        pid = (await call(flow)).pid
        await eventually(lambda: flow.statistics().steps[0].is_asleep, PATIENCE)
        assert wait_until(lambda: not is_alive(pid), PATIENCE)
        assert (await call(flow)).pid != pid


async def test_streams_and_coroutines(cluster: Cluster) -> None:
    async with running(placed(cluster, Count())) as flow:
        task = Call(value=100)  # 80 MB, so far more than a window
        received = [(item[0], item.shape) async for item in flow.stream(task, PATIENCE)]
        assert received == [(number, (100_000,)) for number in range(100)]
        assert task.result == "counted"
    async with running(placed(cluster, Twice(), handle_timeout=5.0)) as flow:
        tasks = await asyncio.gather(*[call(flow, value=number) for number in range(20)])
        assert [task.result for task in tasks] == [2 * number for number in range(20)]


async def test_a_start_that_fails_says_why(cluster: Cluster) -> None:
    with pytest.raises(StartError, match="OSError: .*no such model") as caught:
        async with running(placed(cluster, Broken())):
            pass
    assert isinstance(caught.value.__cause__, OSError)
    nowhere = RayActor(address=f"{FAR}:1")
    with pytest.raises(StartError, match=f"there is no Ray cluster at {FAR}:1"):
        async with running(FlowStep(Twice(), worker=WorkerOptions(placement=nowhere))):
            pass


SERVICE = """
    import asyncio
    import sys
    from pathlib import Path

    import numpy as np

    from fastapi_aqueduct import Flow, FlowStep, RayActor, WorkerOptions
    from tests.handlers import Gate
    from tests.placement.handlers import Call, Remote
    from tests.placement.nodes import FAR


    async def main() -> None:
        directory = Path(sys.argv[2])
        placement = RayActor(address=sys.argv[1], num_cpus=1, resources={FAR: 1})
        async with Flow(FlowStep(Remote(directory), nprocs=2, worker=WorkerOptions(placement=placement))) as flow:
            await flow.process(Call("double", np.arange(1 << 17)), 60)
            print(*[worker.pid for worker in flow.statistics().steps[0].workers], flush=True)
            await flow.process(Call("wait", Gate(directory)), 600)


    asyncio.run(main())
"""

LEFT = """
    import sys
    import time

    import ray

    ray.init(address=sys.argv[1], log_to_driver=False)
    deadline = time.monotonic() + float(sys.argv[2])
    while True:
        free = ray.available_resources()
        taken = {name: total - free.get(name, 0.0) for name, total in ray.cluster_resources().items()}
        if not any(taken.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    print({name: amount for name, amount in taken.items() if amount})
"""


def test_an_application_that_is_killed_leaves_nothing_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    script = write_script(tmp_path, SERVICE, "service.py")
    command = [sys.executable, str(script), cluster.address, str(tmp_path)]
    with subprocess.Popen(command, env=script_environment(), stdout=subprocess.PIPE, text=True) as application:
        try:
            assert application.stdout is not None
            stand_ins = [int(pid) for pid in application.stdout.readline().split()]
            actors = [int(pid) for pid in notes(tmp_path / "started")]
            assert (len(stand_ins), len(actors)) == (2, 2)
            assert wait_until(gate.is_entered, PATIENCE)  # one of them is in a call that does not end
        finally:
            application.kill()
    assert wait_until(lambda: not any(map(is_alive, (*stand_ins, *actors))), PATIENCE)
    left = write_script(tmp_path, LEFT, "left.py")
    command = [sys.executable, str(left), cluster.address, str(PATIENCE)]
    done = subprocess.run(command, env=script_environment(), capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.stdout == "{}\n", done.stdout + done.stderr


async def test_resources_that_no_node_has_are_named(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    placement = RayActor(address=cluster.address, resources={"a100": 1})
    flow = forked(FlowStep(Twice(), worker=WorkerOptions(placement=placement)), start_timeout=20.0)
    with pytest.raises(StartError), caplog.at_level(logging.WARNING):
        await flow.start_async()
    assert "is not ready yet; it needs" in caplog.text
    assert f"and the cluster has {NEAR}: {NEAR} 4, CPU 4; {FAR}: {FAR} 4, CPU 4" in caplog.text
