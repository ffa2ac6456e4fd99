"""Calls of a flow from other event loops, from threads without one, and when the loop that drives it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from fastapi_aqueduct import BlockingCallError, Flow, FlowStep, NotRunningError, TaskTimeout

from .. import handlers
from ..handlers import Each, Gate, Job, notes
from ..support import (
    DEADLINE,
    blocks,
    busy,
    contenders,
    engine_of,
    eventually,
    forked,
    outcome,
    pids,
    run_script,
    running,
    wait_until,
)

RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, Any]], Any]

WISH = contextvars.ContextVar("wish", default=False)


def is_wished(task: Any) -> bool:
    return WISH.get()


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(50) as pool:
        yield pool


def end(flow: Flow) -> None:
    """Stop a flow where no event loop runs; nothing may hold memory."""

    async def stop() -> None:
        flow.adopt()  # what is held is exact in the thread of the owner only
        await eventually(lambda: blocks(flow) == 0)
        await flow.stop()

    asyncio.run(stop())


class Own:
    """A thread with an event loop that drives a flow until the test ends it.

    Args:
        flow: A flow that is started and that no loop drives.
        ends: How the loop ends.
    """

    def __init__(self, flow: Flow, ends: str = "closed") -> None:
        self._flow = flow
        self._has_begun = threading.Event()
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[ends])
        self._thread.start()
        assert self._has_begun.wait(DEADLINE)

    def end(self) -> None:
        """End the loop."""
        self._may_end.set()
        self._thread.join()

    def _run(self, ends: str) -> None:
        if ends != "stopped":
            run = uvloop.run if ends == "closed, uvloop" else asyncio.run
            run(self._drive())
            return
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._drive())

    async def _drive(self) -> None:
        self._flow.adopt()
        self._has_begun.set()
        await eventually(self._may_end.is_set)


# A running owner


@RUNNERS
async def test_other_event_loops_hand_their_calls_to_a_running_owner(
    tmp_path: Path, threads: ThreadPoolExecutor, run: Run
) -> None:
    async with running(forked(FlowStep(Each(handlers.enter_gate_if_any, handlers.add_one), nprocs=2))) as flow:
        owner = engine_of(flow).loop
        async with busy(flow, Gate(tmp_path), number=0):
            calls = [flow.process(Job(number=number), 30) for number in range(30)]
            own = asyncio.gather(*calls)
            others = [threads.submit(run, flow.process(Job(number=n), 30)) for n in range(30)]
            assert [task.number for task in await own] == list(range(1, 31))
            results = await asyncio.gather(*map(asyncio.wrap_future, others))
            assert [task.number for task in results] == list(range(1, 31))
        assert engine_of(flow).loop is owner


async def test_a_call_from_another_thread_fills_the_callers_own_task_with_memory_that_is_freed(
    threads: ThreadPoolExecutor,
) -> None:
    async with running(forked(Each(handlers.replace_image))) as flow:
        task = Job(image=np.zeros(100_000, np.uint8))
        result = await asyncio.get_running_loop().run_in_executor(threads, flow.process_blocking, task)
        assert result is task
        assert task.image.sum() == 100_000
        assert task.metrics.steps[0].step == "step1_Each"
        assert task.metrics.total_time >= task.metrics.steps[0].handle_time
        del task, result


async def test_a_field_that_is_shared_in_another_thread_moves_in_that_of_the_owner(threads: ThreadPoolExecutor) -> None:
    def work() -> Any:
        task = Job(image=np.zeros(100_000, np.uint8))
        task.share_value("image")
        assert flow.statistics().arena.blocks == 0
        return flow.process_blocking(task).image.sum()

    async with running(forked(Each(handlers.write_into_image))) as flow:
        assert await asyncio.get_running_loop().run_in_executor(threads, work) == 700_000


async def test_a_call_that_fails_in_another_thread_leaves_no_garbage_that_holds_memory() -> None:
    def work() -> None:
        for timeout in (60, 0.0):
            try:
                flow.process_blocking(Job(image=np.zeros(100_000, np.uint8), error="value"), timeout)
            except (ValueError, TaskTimeout):
                pass

    async with running(forked(Each(handlers.raise_error))) as flow:
        gc.collect()
        gc.disable()
        try:
            await asyncio.to_thread(work)
            await eventually(lambda: flow.statistics().arena.blocks == 0)
        finally:
            gc.enable()


async def test_errors_arrive_in_the_other_thread(threads: ThreadPoolExecutor) -> None:
    async with running(forked(Each(handlers.raise_error))) as flow:
        call = threads.submit(flow.process_blocking, Job(error="value"))
        error = await asyncio.get_running_loop().run_in_executor(threads, call.exception)
        assert isinstance(error, ValueError)
        assert "raise_error" in str(error.__cause__)


async def test_context_variables_of_the_caller_are_seen(threads: ThreadPoolExecutor) -> None:
    def work(wish: bool) -> Any:
        WISH.set(wish)
        return len(flow.process_blocking(Job()).metrics.steps)

    async with running(forked(FlowStep(Each(handlers.pass_on), handle_condition=is_wished))) as flow:
        loop = asyncio.get_running_loop()
        for wish in (True, False, True):
            context = contextvars.copy_context()
            assert await loop.run_in_executor(threads, context.run, work, wish) == wish


@RUNNERS
async def test_a_cancellation_in_another_loop_withdraws_the_task(
    tmp_path: Path, threads: ThreadPoolExecutor, run: Run
) -> None:
    path = tmp_path / "ran"
    async with running(forked(Each(handlers.enter_gate_if_any, handlers.write_down), queue_size=1)) as flow:

        async def leave() -> None:
            tasks = [asyncio.create_task(flow.process(Job(number=n, path=path), 60)) for n in (1, 2)]
            await eventually(lambda: contenders(flow) == 1)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)

        async with busy(flow, Gate(tmp_path), number=0, path=path):
            await asyncio.get_running_loop().run_in_executor(threads, lambda: run(leave()))
            await eventually(lambda: flow.statistics().steps[0].queued == 0)
            await eventually(lambda: contenders(flow) == 0)
            assert flow.statistics().cancelled in (1, 2)  # the second may have got the place of the first
        await flow.process(Job(number=3, path=path))
    assert notes(path) == ["0", "3"]


async def test_the_stop_of_a_flow_ends_calls_of_other_threads(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    flow = forked(Each(handlers.enter_gate), queue_size=1)
    await flow.start_async()
    calls = [threads.submit(flow.process_blocking, Job(gate=Gate(tmp_path)), 60) for _ in range(4)]
    await eventually(lambda: contenders(flow) == 2)
    await flow.stop(graceful=False)
    for call in calls:
        assert isinstance(await outcome(asyncio.wrap_future(call)), NotRunningError)


async def test_a_flow_is_stopped_from_another_thread(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    flow = forked(Each(handlers.enter_gate, handlers.add_one))
    await flow.start_async()
    gate = Gate(tmp_path)
    task = asyncio.create_task(flow.process(Job(gate=gate, number=1), 60))
    await eventually(gate.is_entered)
    stop = threads.submit(asyncio.run, flow.stop())
    await eventually(lambda: flow.state == "stopping")
    gate.open()
    assert (await task).number == 2  # the stop waits for tasks in flight
    await asyncio.wrap_future(stop)
    assert flow.state == "stopped"


# Time limits


async def test_the_time_limit_of_a_call_from_another_thread(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    async with running(forked(Each(handlers.enter_gate_if_any))) as flow:
        async with busy(flow, Gate(tmp_path)):
            with pytest.raises(TaskTimeout, match="timeout of a task after .* waiting for step"):
                await asyncio.wrap_future(threads.submit(flow.process_blocking, Job(), 0.2))
            with pytest.raises(TaskTimeout, match="timeout of a task after .* waiting for step"):
                await asyncio.wrap_future(threads.submit(asyncio.run, flow.process(Job(), 0.2)))
        assert flow.statistics().timed_out == 2


async def test_a_call_ends_in_time_and_is_not_written_to_later_where_the_owner_is_busy(
    threads: ThreadPoolExecutor,
) -> None:
    async with running(forked(Each(handlers.add_one))) as flow:
        task = Job(number=1)
        began_at = time.monotonic()
        error = threads.submit(flow.process_blocking, task, 0.2).exception()  # this loop stands still meanwhile
        assert 0.2 <= time.monotonic() - began_at < DEADLINE
        assert isinstance(error, TaskTimeout)
        assert "timeout" in str(error) and "busy" in str(error)
        assert (await flow.process(Job(number=5))).number == 6
        assert task.number == 1


# No loop at all, and loops that end


def test_a_blocking_call_in_the_thread_of_an_event_loop_says_what_to_do() -> None:
    async def main() -> None:
        async with running(forked(Each(handlers.add_one))) as flow:
            with pytest.raises(BlockingCallError, match=r"await flow.process\(task\)"):
                flow.process_blocking(Job(number=1))
            assert flow.statistics().in_flight == 0

    asyncio.run(main())


def test_blocking_calls_of_a_flow_that_does_not_run_or_of_what_is_no_task_are_refused() -> None:
    flow = forked(Each(handlers.add_one))
    with pytest.raises(NotRunningError, match="async with flow"):
        flow.process_blocking(Job())
    with pytest.raises(ValueError, match="processes tasks"):
        flow.process_blocking(5)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="timeout_sec"):
        flow.process_blocking(Job(), "5")  # type: ignore[arg-type]


@RUNNERS
def test_fifty_threads_each_with_a_short_event_loop_of_its_own(threads: ThreadPoolExecutor, run: Run) -> None:
    flow = forked(FlowStep(Each(handlers.add_one, handlers.make_large), nprocs=2))
    flow.start()

    async def work(number: int) -> int:
        task = await flow.process(Job(number=number, size=20_000), DEADLINE)
        assert task.image[0] == (number + 1) % 251
        return int(task.number)

    for _ in range(3):
        calls = [threads.submit(run, work(n)) for n in range(50)]
        assert [call.result() for call in calls] == list(range(1, 51))
    assert flow.statistics().in_flight == 0
    end(flow)


def test_threads_without_a_loop_and_loops_mixed(threads: ThreadPoolExecutor) -> None:
    flow = forked(FlowStep(Each(handlers.add_one), nprocs=2))
    flow.start()
    calls: list[Future[Any]] = []
    for number in range(0, 100, 2):
        calls.append(threads.submit(flow.process_blocking, Job(number=number), DEADLINE))
        calls.append(threads.submit(asyncio.run, flow.process(Job(number=number + 1), DEADLINE)))
    assert [call.result().number for call in calls] == list(range(1, 101))
    end(flow)


@pytest.mark.parametrize("ends", ["closed", "closed, uvloop", "stopped"])
def test_calls_go_on_when_the_loop_that_drives_the_flow_ends(
    tmp_path: Path, threads: ThreadPoolExecutor, ends: str
) -> None:
    """One is in the hands of a worker, one in the queue, and two wait for a place in it; each runs once."""
    path = tmp_path / "ran"
    flow = forked(Each(run_noted), queue_size=1)
    flow.start()
    owner = Own(flow, ends)
    gate = Gate(tmp_path)
    calls = [threads.submit(flow.process_blocking, Job(number=n, path=path, gate=gate), 60) for n in range(2)]
    calls += [threads.submit(asyncio.run, flow.process(Job(number=n, path=path), 60)) for n in (2, 3)]
    assert wait_until(gate.is_entered, DEADLINE)
    assert wait_until(lambda: contenders(flow) == 2, DEADLINE)
    owner.end()
    gate.open()
    assert sorted(call.result().number for call in calls) == [1, 2, 3, 4]
    assert sorted(notes(path)) == ["1", "2", "3", "4"]
    if ends == "stopped":  # it runs again, and is one of those that hand their calls over
        assert owner.loop.run_until_complete(flow.process(Job(number=5))).number == 5
        owner.loop.close()
    end(flow)


def make_loop(base: Any) -> Any:
    """Make an event loop that tells when another thread has reached it."""

    class Loop(base):  # type: ignore[misc]
        reached = threading.Event()

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            handle = super().call_soon_threadsafe(*args, **kwargs)
            self.reached.set()
            return handle

    return Loop()


@pytest.mark.parametrize("has_place", [True, False], ids=["admitted at once", "waits for a place"])
@pytest.mark.parametrize("base", [asyncio.SelectorEventLoop, uvloop.Loop], ids=["asyncio", "uvloop"])
def test_a_call_that_reaches_a_loop_in_its_last_turn_goes_on_in_another(
    tmp_path: Path, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, base: Any, has_place: bool
) -> None:
    flow = forked(Each(handlers.enter_gate_if_any, handlers.add_one), queue_size=1)
    flow.start()
    gate = Gate(tmp_path)
    calls: list[Future[Any]] = []

    def call(number: int, **fields: Any) -> None:
        loop.reached.clear()
        calls.append(threads.submit(flow.process_blocking, Job(number=number, **fields), 60))
        assert loop.reached.wait(DEADLINE)

    async def fill() -> None:
        flow.adopt()
        if not has_place:
            call(0, gate=gate)
            await eventually(gate.is_entered)
            call(1)
            await eventually(lambda: flow.statistics().steps[0].queued == 1)

    async def end_with_a_call() -> None:
        call(2)  # it begins in the next turn, and that is the last one

    loop = make_loop(base)
    loop.run_until_complete(fill())
    loop.run_until_complete(end_with_a_call())
    loop.close()
    gate.open()
    assert [call.result().number - 1 for call in calls] == ([2] if has_place else [0, 1, 2])
    end(flow)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_loop_that_runs_again_at_once_keeps_the_flow(threads: ThreadPoolExecutor) -> None:
    """As that of `asyncio.run`, which runs several times at its end: two threads would change the flow's state."""
    flow = forked(Each(handlers.add_one))
    flow.start()
    loop = make_loop(asyncio.SelectorEventLoop)

    async def adopt() -> None:
        flow.adopt()

    async def drive(call: Future[Any]) -> None:
        assert (await asyncio.wrap_future(call)).number == 2

    def run() -> None:
        loop.run_until_complete(adopt())
        call = threads.submit(asyncio.run, flow.process(Job(number=1), 60))
        assert loop.reached.wait(DEADLINE)
        loop.run_until_complete(drive(call))
        assert id(engine_of(flow).loop) == id(loop)
        loop.close()

    threads.submit(run).result()
    end(flow)


def test_a_loop_that_has_stopped_in_another_thread_gives_the_flow_away(threads: ThreadPoolExecutor) -> None:
    flow = forked(Each(handlers.add_one))
    flow.start()
    owner = Own(flow, "stopped")
    owner.end()

    async def stream() -> None:
        flow.adopt()
        assert engine_of(flow).loop is asyncio.get_running_loop()

    asyncio.run(stream())
    assert asyncio.run(flow.process(Job(number=1), 60)).number == 2
    owner.loop.close()
    end(flow)


def run_noted(task: Any) -> None:
    handlers.enter_gate_if_any(task)
    if hasattr(task, "path"):
        task.number += 1
        handlers.write_down(task)


def test_deadlines_and_cancellations_hold_after_the_owner_has_ended(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    flow = forked(Each(handlers.enter_gate_if_any))
    flow.start()
    owner = Own(flow)
    gate = Gate(tmp_path)
    held = threads.submit(flow.process_blocking, Job(gate=gate), 60)
    assert wait_until(gate.is_entered, DEADLINE)
    late = threads.submit(flow.process_blocking, Job(), 1.0)
    assert wait_until(lambda: flow.statistics().in_flight == 2, DEADLINE)
    owner.end()
    with pytest.raises(TaskTimeout, match="waiting for step"):
        late.result()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flow.process(Job(), 60), 0.2)

    asyncio.run(leave())
    assert wait_until(lambda: flow.statistics().cancelled == 1, DEADLINE)
    gate.open()
    held.result()
    end(flow)


def test_a_worker_that_dies_is_replaced_where_no_loop_runs() -> None:
    flow = Flow(Each(handlers.tell_pid))
    flow.start()
    first = flow.process_blocking(Job()).pid
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: pids(flow) not in ([], [first]), DEADLINE)
    assert flow.process_blocking(Job(), DEADLINE).pid != first
    end(flow)


def test_a_worker_that_was_being_replaced_when_the_loop_ended_is_there_for_the_next() -> None:
    flow = Flow(Each(handlers.tell_pid))
    flow.start()

    async def leave() -> int:
        first = int((await flow.process(Job())).pid)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: flow.statistics().steps[0].restarts)
        return first

    first = asyncio.run(leave())
    assert flow.process_blocking(Job(), DEADLINE).pid != first
    end(flow)


def test_a_call_waits_for_room_that_another_thread_makes(threads: ThreadPoolExecutor) -> None:
    flow = forked(Each(handlers.pass_on), memory_limit=4 << 20)
    flow.start()
    kept = [flow.process_blocking(Job(image=np.zeros(3 << 20, np.uint8)))]
    waiting = threads.submit(flow.process_blocking, Job(image=np.ones(3 << 20, np.uint8)), 30)
    assert wait_until(lambda: engine_of(flow).memory.arena.mapping.wake, DEADLINE)
    kept.clear()
    assert waiting.result().image.sum() == 3 << 20
    del waiting
    end(flow)


async def test_a_server_that_starts_later_drives_the_flow_itself(threads: ThreadPoolExecutor) -> None:
    flow = forked(Each(handlers.add_one))
    await asyncio.to_thread(flow.start)
    await asyncio.wrap_future(threads.submit(flow.process_blocking, Job(number=1)))
    before = threading.active_count()
    flow.adopt()
    assert threading.active_count() == before - 1
    assert engine_of(flow).loop is asyncio.get_running_loop()
    assert (await flow.process(Job(number=1))).number == 2
    assert (await asyncio.wrap_future(threads.submit(flow.process_blocking, Job(number=2)))).number == 3
    await flow.stop()


# Programs of users


def test_a_plain_script_without_a_loop(tmp_path: Path) -> None:
    source = """
        import threading
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, Job, add_one

        if __name__ == "__main__":
            flow = Flow(Each(add_one))
            flow.start()
            print(flow.process_blocking(Job(number=1)).number)
            thread = threading.Thread(target=lambda: print(flow.process_blocking(Job(number=2)).number))
            thread.start()
            thread.join()
    """
    assert run_script(tmp_path, source) == "2\n3\n"


def test_a_script_that_stops_its_flow_and_one_that_ends_in_the_middle_of_a_call(tmp_path: Path) -> None:
    source = """
        import asyncio, threading
        from pathlib import Path
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, Gate, Job, enter_gate_if_any
        from tests.support import wait_until

        if __name__ == "__main__":
            flow = Flow(Each(enter_gate_if_any))
            flow.start()
            flow.process_blocking(Job())
            asyncio.run(flow.stop())
            print(flow.state, wait_until(lambda: threading.active_count() == 1, 20))
            flow.start()
            gate = Gate(Path("."))
            threading.Thread(target=flow.process_blocking, args=(Job(gate=gate), 60), daemon=True).start()
            while not gate.is_entered():
                pass
            print("end")
    """
    began_at = time.monotonic()
    assert run_script(tmp_path, source) == "stopped True\nend\n"
    assert time.monotonic() - began_at < 50


def test_ctrl_c_withdraws_a_blocking_call(tmp_path: Path) -> None:
    source = """
        import os, signal, threading
        from pathlib import Path
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, Gate, Job, enter_gate_if_any
        from tests.support import wait_until

        if __name__ == "__main__":
            flow = Flow(Each(enter_gate_if_any))
            flow.start()
            gate = Gate(Path("."))

            def interrupt():
                wait_until(gate.is_entered, 20)
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=interrupt).start()
            try:
                flow.process_blocking(Job(gate=gate), 60)
            except KeyboardInterrupt:
                print("interrupted")
            print(wait_until(lambda: flow.statistics().cancelled == 1, 20))
            gate.open()
            flow.process_blocking(Job())
    """
    assert run_script(tmp_path, source) == "interrupted\nTrue\n"
