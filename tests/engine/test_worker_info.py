"""What a worker knows about itself, and what it has got of the machine when its libraries are imported."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fastapi_aqueduct import (
    Autoscale,
    Flow,
    FlowStep,
    StartError,
    UsageError,
    WorkerDied,
    WorkerInfo,
    WorkerOptions,
    worker_info,
)
from fastapi_aqueduct.engine.options import StartMethod
from fastapi_aqueduct.engine.system.cpu import available_cores
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.workers.environment import THREAD_VARIABLES
from fastapi_aqueduct.testing import inline

from ..support import eventually, pids, run_script, running
from .dealt import Ask, Tell, TellLater, ask


async def ask_both(flow: Flow) -> list[Ask]:
    """Ask both workers, each of which is idle; return the answers by the index."""
    await eventually(lambda: len(pids(flow)) == 2)
    tasks = await asyncio.gather(flow.process(Ask(), 20), flow.process(Ask(), 20))
    return sorted(tasks, key=lambda task: task.info.index)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_each_worker_has_its_device_and_a_replacement_inherits_it(
    method: StartMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-a,7")
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    options = WorkerOptions(devices=["2", "1"], env=lambda index: {"SHARD": str(index)}, threads=3)
    step = FlowStep(Tell(), nprocs=2, name="tell", worker=options, max_retries=0)
    async with running(Flow(step, name="told", mp_start_method=method, timing=Timing(quick_load=0.0))) as flow:
        before = await ask_both(flow)
        with pytest.raises(WorkerDied) as caught:
            await flow.process(Ask(signal.SIGKILL), 20)
        await eventually(lambda: caught.value.pid not in pids(flow))
        after = await ask_both(flow)
        assert len({task.info.pid for task in (*before, *after)}) == 3
        shown = {(worker.pid, worker.index, worker.device_id) for worker in flow.statistics().steps[0].workers}
        assert shown == {(task.info.pid, task.info.index, task.info.device_id) for task in after}
        await flow.steps["tell"].restart()
        renewed = await ask_both(flow)
        for version, tasks in ((1, before), (1, after), (2, renewed)):
            for index, (task, id) in enumerate(zip(tasks, ("7", "GPU-a"), strict=True)):
                info = WorkerInfo("told", "tell", index, task.info.pid, 3, version, "cuda:0", id)
                assert (task.info, task.started_as) == (info, info)
                assert (task.environ["CUDA_VISIBLE_DEVICES"], task.environ["SHARD"]) == (id, str(index))
                assert {task.environ[name] for name in THREAD_VARIABLES} == {"3"}
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,GPU-a,7"


async def test_a_step_that_declares_nothing_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    step = FlowStep(Tell(), nprocs=2, name="tell")
    async with running(Flow(step, name="told", mp_start_method="forkserver")) as flow:
        for index, task in enumerate(await ask_both(flow)):
            share = max(1, available_cores() // 2)
            assert task.info == WorkerInfo("told", "tell", index, task.info.pid, share)
            assert task.environ["OMP_NUM_THREADS"] == str(share)


async def test_an_elastic_step_shares_the_cores_among_as_many_workers_as_it_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    step = FlowStep(Tell(), nprocs=Autoscale(1, 2, idle_after=60), name="tell")
    async with running(Flow(step, name="told", mp_start_method="forkserver")) as flow:
        assert (await flow.process(Ask())).info.threads == max(1, available_cores() // 2)
        await flow.steps["tell"].scale(2)
        assert {task.info.threads for task in await ask_both(flow)} == {max(1, available_cores() // 2)}


async def test_a_function_has_the_same_options() -> None:
    async with ask.flow:
        info, mask = await ask()
    assert (info.device, info.device_id, mask, info.threads) == ("xpu:0", "3", "3", 7)


MAIN = """
    import logging
    import multiprocessing
    import os
    import sys

    from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, WorkerOptions

    SEEN = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SHARD")]

    class Handler(BaseTaskHandler):
        def handle(self, *tasks):
            for task in tasks:
                task.seen = SEEN

    if __name__ == "__main__":
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        multiprocessing.set_forkserver_preload(["numpy"])
        process = multiprocessing.get_context("forkserver").Process(target=int)
        process.start()
        process.join()
        options = WorkerOptions(devices=["MIG-1"], env={"SHARD": "a", "OMP_NUM_THREADS": "6"})
        flow = Flow(FlowStep(Handler(), worker=options, name="main"), mp_start_method="forkserver")
        flow.start()
        print(flow.process_blocking(BaseTask()).seen)
"""


def test_under_forkserver_the_main_module_is_imported_with_the_environment(tmp_path: Path) -> None:
    """What the forkserver itself has imported for other code is too early, and a worker warns of it."""
    seen, warning = sorted(run_script(tmp_path, MAIN).splitlines())  # either comes first
    assert warning.startswith("worker of main (pid ") and "had imported numpy before the variables" in warning
    assert seen == "['MIG-1', '6', 'a']"


async def test_inline_it_says_what_a_worker_would_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is that of the test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = WorkerOptions(devices=["MIG-1", "0"], env=lambda index: {"SHARD": str(index)}, threads=3)
    steps = [FlowStep(Tell(), nprocs=2, name="tell", worker=options), FlowStep(TellLater(), name="later")]
    async with inline(Flow(*steps, name="told")) as flow:
        task = await flow.process(Ask())
        assert task.started_as == WorkerInfo("told", "tell", 0, os.getpid(), 3, 1, "cuda:0", "MIG-1")
        assert (task.info.step, task.info.device) == ("later", None)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], "SHARD" in os.environ) == ("", False)


def test_outside_of_a_worker_there_is_nothing_to_know() -> None:
    with pytest.raises(UsageError, match="outside of a worker: call it in load= of a function, or in on_start"):
        worker_info()


async def test_a_function_for_env_that_raises_is_a_launch_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def env(index: int) -> dict[str, str]:
        launches.append(index)
        if len(launches) in failing:
            raise LookupError(f"no shard {index}")
        return {}

    launches: list[int] = []
    failing = {1, 3}
    step = FlowStep(Tell(), name="tell", max_retries=0, worker=WorkerOptions(env=env))
    flow = Flow(step, name="told", mp_start_method="forkserver")
    with pytest.raises(StartError, match="a worker of tell in flow told could not be started: LookupError: no shard 0"):
        await flow.start_async()
    async with running(flow):
        with pytest.raises(WorkerDied):
            await flow.process(Ask(signal.SIGKILL), 20)
        assert (await flow.process(Ask(), 20)).info.index == 0
        assert flow.statistics().steps[0].failed_launches == 1
    assert launches == [0, 0, 0, 0]
    assert "could not be started (LookupError: no shard 0); it is tried again" in caplog.text
