"""Launches that fail are tried again: no worker is missing for good, and nothing is left open or running."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from fastapi_aqueduct import ConfigurationError, Flow, FlowStep, StartError
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.workers.sentinel import STATUS_TIME

from ..handlers import Each, Job, tell_pid
from ..support import DEADLINE, ZOMBIE, eventually, outcome, pids, running, traces
from .scarcity import Call, Injection, few_descriptors
from .support import complete, lacking, parent

HASTY = Timing(first_wait=0.02, longest_wait=0.05)
"""Failed launches are tried again at once, which the rules for waits do not matter to."""


def failures(flow: Flow) -> int:
    return flow.statistics().steps[0].failed_launches


async def kill(flow: Flow) -> None:
    """End a worker from outside and wait until it has been noticed."""
    victim = pids(flow)[0]
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: victim not in pids(flow))


async def wear_out(flow: Flow) -> None:
    """Have a worker do all the tasks it may, and wait until it has been replaced."""
    before = flow.statistics().steps[0].recycled
    victim = (await flow.process(Job(), DEADLINE)).pid
    await eventually(lambda: flow.statistics().steps[0].recycled > before or victim not in pids(flow))


def counts() -> tuple[int, int]:
    """Count the descendants of this process that run, and its descriptors."""
    gc.collect()
    left = traces()
    # The forkserver reaps a worker that has ended when it comes to that.
    return sum(not process.endswith(ZOMBIE) for process in left.processes), len(left.descriptors)


@pytest.mark.parametrize(
    ("factory", "method"),
    [
        pytest.param(uvloop.new_event_loop, "forkserver", id="uvloop, forkserver"),
        pytest.param(asyncio.new_event_loop, "spawn", id="asyncio", marks=pytest.mark.long),
        pytest.param(uvloop.new_event_loop, "spawn", id="uvloop", marks=pytest.mark.long),
        pytest.param(asyncio.new_event_loop, "forkserver", id="asyncio, forkserver", marks=pytest.mark.long),
    ],
)
def test_descriptors_that_run_out_one_by_one_take_no_worker_for_good(
    factory: Any, method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead worker leaves three; a launch needs two for the channel, one for the trace, more for the process."""

    async def main() -> None:
        flow = Flow(FlowStep(Each(tell_pid), nprocs=2), timing=HASTY, mp_start_method=method)
        async with running(flow):
            before = counts()[1]
            for left in range(6):
                with few_descriptors() as scarce:
                    scarce.leave(0)
                    failed = failures(flow)
                    await kill(flow)
                    scarce.leave(left)
                    await eventually(lambda: failures(flow) > failed + 2 or len(pids(flow)) == 2)  # noqa: B023
                    assert lacking(flow) == 0
                    assert (await flow.process(Job(), DEADLINE)).pid in pids(flow)  # the other one works on
                await complete(flow, 2)
                await eventually(lambda: counts()[1] == before)
            assert failures(flow) > 6
            assert not flow.statistics().steps[0].is_broken

    with caplog.at_level(logging.CRITICAL, "asyncio"), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("happen", "limits"), [(kill, {}), (wear_out, {"max_tasks": 1})], ids=["a worker dies", "a worker is worn"]
)
async def test_whatever_system_call_fails_all_workers_are_there_again(
    happen: Callable[[Flow], Awaitable[None]], limits: dict[str, Any]
) -> None:
    # Not the default one: it logs the exceptions, and what keeps them keeps what the test looks for.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    flow = Flow(FlowStep(Each(tell_pid), nprocs=2, **limits), timing=HASTY, mp_start_method="forkserver")
    async with running(flow):
        await flow.process(Job())
        await complete(flow, 2)
        before = counts()
        with Injection() as seen:
            await happen(flow)
            await complete(flow, 2)
        assert {"socketpair", "memfd_create", "send", "register"} <= {call.name for call in seen.calls}
        for call in list(seen.calls):
            with Injection(call) as injection:
                await happen(flow)
                await complete(flow, 2)
            assert lacking(flow) == 0, injection.calls
            await eventually(lambda: counts() == before)
        assert (await flow.process(Job(), DEADLINE)).pid


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("forkserver", ["dup", "connect", "pidfd_open"]),
        pytest.param("spawn", ["fork_exec", "pidfd_open"], marks=pytest.mark.long),
    ],
)
async def test_whatever_fails_in_the_thread_of_a_launch_all_workers_are_there_again(
    method: Any, names: list[str]
) -> None:
    for name in names:
        flow = Flow(FlowStep(Each(tell_pid), nprocs=2), timing=HASTY, mp_start_method=method)
        with Injection() as injection:
            async with running(flow):
                before = counts()
                injection.begin(Call(name))
                await kill(flow)
                await complete(flow, 2)
                assert injection.has_failed, injection.calls
                assert failures(flow) == 1
                assert lacking(flow) == 0
                await eventually(lambda: counts() == before)  # noqa: B023
                assert (await flow.process(Job(), DEADLINE)).pid


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.long)])
async def test_whatever_system_call_fails_in_the_first_start_fails_the_start(method: Any) -> None:
    def make() -> Flow:
        return Flow(FlowStep(Each(tell_pid), nprocs=2), name="ocr", mp_start_method=method)

    async with running(make()):
        pass  # the forkserver runs from now on
    before = counts()
    with Injection() as seen:
        async with running(make()):
            await eventually(lambda: "register" in {call.name for call in seen.calls})
            calls = list(seen.calls)
    needed = {"socketpair", "setsockopt", "setblocking", "memfd_create", "ftruncate", "fcntl", "pidfd_open", "register"}
    made = {"connect", "dup"} if method == "forkserver" else {"fork_exec"}
    assert needed | made <= {call.name for call in calls}
    last = {call.name: call for call in calls}
    for call in calls:
        if call.name != "memfd_create" and call.number and call != last[call.name]:
            continue
        with Injection(call) as injection:
            flow = make()
            error = await outcome(flow.start_async(DEADLINE))
        if call.number and not injection.has_failed:  # made in some runs only, such as while a first thread is busy
            assert error is None
            await flow.stop()
            continue
        assert injection.has_failed, call
        if call.name == "send":  # it is sent a little later
            assert error is None
            await flow.stop()
        else:
            assert isinstance(error, StartError), call
            of_flow = call in (Call("memfd_create"), Call("ftruncate"), Call("fcntl"), Call("pipe"))
            what = "flow" if of_flow else "a worker of step1_Each in flow"
            assert str(error).startswith(f"{what} ocr could not be started: ")
            assert f"injected into {call.name}" in str(error)
            assert error.step == ("" if of_flow else "step1_Each")
            assert isinstance(error.__cause__, OSError)
        del error
        await eventually(lambda: counts() == before)


@pytest.mark.parametrize("left", [0, 1])
async def test_a_process_without_a_descriptor_is_told_which_limit_to_raise(left: int) -> None:
    flow = Flow(FlowStep(Each(tell_pid)), name="ocr")
    with few_descriptors() as scarce:
        scarce.leave(left)
        error = await outcome(flow.start_async(DEADLINE))
    assert isinstance(error, ConfigurationError)
    assert "flow ocr with 1 workers needs" in str(error)
    assert "ulimit -n" in str(error)


async def test_a_forkserver_that_is_stopped_holds_up_no_event_loop() -> None:
    """It reports how a worker has ended, and does so late."""
    loop = asyncio.get_running_loop()
    pauses = [0.0]

    async def measure() -> None:
        while True:
            began = loop.time()
            await asyncio.sleep(0.01)
            pauses.append(loop.time() - began)

    async with running(Flow(FlowStep(Each(tell_pid)), timing=HASTY, mp_start_method="forkserver")) as flow:
        (pid,) = pids(flow)
        server = parent(pid)
        measuring = asyncio.create_task(measure())
        os.kill(server, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: flow.statistics().steps[0].restarts == 1)
        finally:
            os.kill(server, signal.SIGCONT)
        await complete(flow, 1)
        assert (await flow.process(Job(), DEADLINE)).pid in pids(flow)
        measuring.cancel()
    assert max(pauses) < STATUS_TIME


@pytest.mark.parametrize(
    "leave",
    [lambda flow: kill_and_leave(flow), lambda flow: kill_and_cancel(flow)],
    ids=["at once", "before its first step"],
)
async def test_an_event_loop_that_ends_during_a_launch_leaves_a_slot_for_the_next(
    leave: Callable[[Flow], Coroutine[Any, Any, None]],
) -> None:
    flow = Flow(FlowStep(Each(tell_pid), nprocs=2), timing=HASTY)
    await asyncio.to_thread(flow.start)
    try:
        await asyncio.to_thread(asyncio.run, leave(flow))
        assert (await flow.process(Job(), DEADLINE)).pid
        await complete(flow, 2)
    finally:
        await flow.stop()


async def kill_and_leave(flow: Flow) -> None:
    """Kill a worker and end when its replacement is being launched."""
    await flow.process(Job())
    (victim, _) = pids(flow)
    os.kill(victim, signal.SIGKILL)
    while victim in [worker.pid for worker in flow.statistics().steps[0].workers]:
        await asyncio.sleep(0)


async def kill_and_cancel(flow: Flow) -> None:
    """Kill a worker and end, as `asyncio.run` does, before the first step of the launch of its replacement."""
    await flow.process(Job())
    os.kill(pids(flow)[0], signal.SIGKILL)
    while all(worker.pid for worker in flow.statistics().steps[0].workers):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
