"""A flow as a whole: how it is declared, started, stopped, and started again."""

from __future__ import annotations

import asyncio
import copy
import gc
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    Aqueduct,
    AqueductError,
    BaseTask,
    ConfigurationError,
    Flow,
    FlowState,
    FlowStep,
    NotRunningError,
    StartError,
    StartTimeout,
    TaskTimeout,
)
from fastapi_aqueduct.exceptions import MPStartMethodValueError

from .. import handlers
from ..handlers import Each, Gate, Job, Noting, Starting, StartingOnce, Whole, notes
from ..support import (
    DEADLINE,
    busy,
    eventually,
    get_ahead,
    outcome,
    pids,
    run_script,
    running,
    script_environment,
    traces,
    write_script,
)

# Declaring


def test_a_flow_without_steps_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one step"):
        Flow()


def test_a_handler_class_in_place_of_an_instance_is_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="forget the parentheses"):
        Flow(Noting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"nprocs": 0}, {"batch_size": 0}, {"batch_timeout": -1.0}, {"handle_condition": "no function"}]
)
def test_a_step_that_cannot_work_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"Each.*{next(iter(settings))}|{next(iter(settings))}.*Each"):
        FlowStep(Each(), **settings)


@pytest.mark.parametrize(
    "settings", [{"queue_size": 0}, {"queue_priorities": 0}, {"memory_limit": 100}, {"start_timeout": 0.0}]
)
def test_a_flow_that_cannot_work_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Flow(Each(), **settings)


def test_fork_is_refused() -> None:
    with pytest.raises(MPStartMethodValueError, match="'spawn' or 'forkserver'"):
        Flow(Each(), mp_start_method="fork")


def test_a_handler_alone_stands_for_a_step() -> None:
    flow = Flow(Each(), FlowStep(Each()))
    assert [step.name for step in flow.statistics().steps] == ["step1_Each", "step2_Each"]
    assert flow.state is FlowState.STOPPED


def test_a_flow_is_not_sent_to_another_process_nor_what_holds_it() -> None:
    flow = Flow(Each(), name="ocr")
    for value in (flow, [flow], Aqueduct(flow)):
        with pytest.raises(TypeError, match="flow ocr cannot be sent.*give it a function that imports the application"):
            pickle.dumps(value)
    with pytest.raises(AqueductError):
        copy.copy(flow)


def test_on_start_wait_is_accepted_and_ignored() -> None:
    """In silence: a warning would be an error here."""
    FlowStep(Each(), on_start_wait=1.0)


async def test_a_handler_that_cannot_be_pickled_is_refused_at_start() -> None:
    handler = Each()
    handler.lock = threading.Lock()  # type: ignore[attr-defined]
    flow = Flow(Each(), handler)
    with pytest.raises(ConfigurationError, match="handler of step2_Each.*lock"):
        await flow.start_async()
    assert flow.state is FlowState.STOPPED


async def test_a_condition_that_cannot_be_pickled_is_refused_at_start() -> None:
    condition = handlers.Chosen("one")
    condition.lock = threading.Lock()  # type: ignore[attr-defined]
    flow = Flow(FlowStep(Each(), handle_condition=condition))
    with pytest.raises(ConfigurationError, match="handle_condition of step1_Each"):
        await flow.start_async()
    assert flow.state is FlowState.STOPPED


# Not running


async def test_a_flow_that_was_not_started_refuses_with_advice() -> None:
    with pytest.raises(NotRunningError, match="async with flow"):
        await Flow(Each()).process(Job())


async def test_a_stopped_flow_refuses_and_its_stop_may_be_repeated() -> None:
    flow = Flow(Each(handlers.pass_on))
    async with flow:
        assert flow.is_running
    await flow.stop()
    assert not flow.is_running
    with pytest.raises(NotRunningError, match="stopped"):
        await flow.process(Job())
    with pytest.raises(NotRunningError):
        flow.check_entry()


async def test_a_flow_that_runs_is_not_started_twice() -> None:
    async with running(Flow(Each(handlers.add_one))) as flow:
        with pytest.raises(NotRunningError, match="running"):
            await flow.start_async()
        assert (await flow.process(Job(number=1))).number == 2


@pytest.mark.parametrize("timeout", [None, math.nan, "5", b"5", [5], 5j])
async def test_a_timeout_that_is_no_number_is_refused(timeout: Any) -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with pytest.raises(ConfigurationError, match="timeout_sec"):
            await flow.process(Job(), timeout)
        assert flow.statistics().in_flight == 0
        assert (await flow.process(Job(), 60)) is not None


@pytest.mark.parametrize("priority", [1.5, "1", None, [1]])
async def test_a_priority_that_is_no_whole_number_is_refused_and_nothing_stays(priority: Any) -> None:
    with pytest.raises(ConfigurationError, match="priority"):
        Job().set_priority(priority)
    async with running(Flow(Each(handlers.pass_on), queue_priorities=3)) as flow:
        task = Job()
        task.priority = priority
        with pytest.raises(ConfigurationError, match="priority of a task must be an integer"):
            await flow.process(task)
        assert flow.statistics().in_flight == 0
        task.priority = 1
        assert (await flow.process(task)) is task


@pytest.mark.parametrize("thing", [42, None, Job, {"number": 1}, object()])
async def test_what_is_no_task_is_refused(thing: Any) -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with pytest.raises(ConfigurationError, match="processes tasks"):
            await flow.process(thing)
        assert flow.statistics().in_flight == 0


async def test_a_task_that_is_failed_with_a_text_is_a_type_error_and_no_dead_worker() -> None:
    async with running(Flow(Each(handlers.fail_with_text_if_any))) as flow:
        (pid,) = pids(flow)
        with pytest.raises(TypeError, match=r"task.fail\(\) takes an exception, .* got 'no picture' of type str"):
            await flow.process(Job(text="no picture"))
        with pytest.raises(TypeError, match="the class ValueError"):
            await flow.process(Job(text=ValueError))
        await flow.process(Job(text=None))
        assert pids(flow) == [pid]


@pytest.mark.parametrize("timeout", [0.0, -1.0, -math.inf])
async def test_a_deadline_in_the_past_is_a_timeout(timeout: float) -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with pytest.raises(TaskTimeout):
            await flow.process(Job(), timeout)
        assert flow.statistics().in_flight == 0


async def test_a_caller_may_wait_for_ever() -> None:
    async with running(Flow(Each(handlers.add_one))) as flow:
        assert (await flow.process(Job(number=1), math.inf)).number == 2


# Starting


async def test_a_failing_on_start_fails_the_start_at_once_with_its_own_exception() -> None:
    flow = Flow(Each(), Starting(handlers.fail_to_load), start_timeout=DEADLINE * 10)
    with pytest.raises(StartError, match="step2_Starting.*no model here") as caught:
        await asyncio.wait_for(flow.start_async(), DEADLINE)
    cause = caught.value.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert "in fail_to_load" in str(cause.__cause__)
    assert caught.value.step == "step2_Starting"
    assert caught.value.pid is not None
    assert flow.state is FlowState.STOPPED


@pytest.mark.parametrize(
    ("function", "exit_code", "words"),
    [(handlers.exit_with_7, 7, "exited with code 7"), (handlers.kill_worker, -9, "was killed by SIGKILL")],
)
async def test_a_worker_that_ends_while_it_starts_fails_the_start(function: Any, exit_code: int, words: str) -> None:
    with pytest.raises(StartError, match=words) as caught:
        await asyncio.wait_for(Flow(Starting(function), start_timeout=300).start_async(), DEADLINE)
    assert caught.value.exit_code == exit_code


async def test_an_on_start_that_never_ends_is_a_start_timeout() -> None:
    flow = Flow(Each(), Starting(handlers.never_end), start_timeout=1.0)
    with pytest.raises(StartTimeout, match="not ready in 1 s.*step2_Starting") as caught:
        await flow.start_async()
    assert isinstance(caught.value, TimeoutError)
    assert flow.state is FlowState.STOPPED


async def test_a_flow_starts_after_a_start_that_failed(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    flow = Flow(StartingOnce(handlers.fail_to_load, broken))
    with pytest.raises(StartError):
        await flow.start_async()
    broken.unlink()
    async with running(flow):
        assert (await flow.process(Job())).pid in pids(flow)


async def test_a_cancelled_start_leaves_nothing() -> None:
    flow = Flow(Starting(handlers.never_end))
    start = asyncio.create_task(flow.start_async())
    await eventually(lambda: flow.statistics().steps[0].workers)
    await eventually(lambda: flow.statistics().steps[0].workers[0].pid)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert flow.state is FlowState.STOPPED


def test_start_without_a_loop_and_work_in_two_loops_one_after_the_other() -> None:
    flow = Flow(Each(handlers.add_one))

    async def work(number: int) -> int:
        return int((await flow.process(Job(number=number))).number)

    async def work_and_stop() -> int:
        result = await work(10)
        await flow.stop()
        return result

    flow.start()
    assert flow.is_running
    assert asyncio.run(work(1)) == 2
    assert asyncio.run(work(5)) == 6
    assert asyncio.run(work_and_stop()) == 11


def test_a_loop_that_ended_in_the_middle_of_tasks_harms_no_other(tmp_path: Path) -> None:
    flow = Flow(Each(handlers.enter_gate_if_any, handlers.add_one))
    gate = Gate(tmp_path)

    async def leave() -> None:
        for number in range(5):
            asyncio.ensure_future(outcome(flow.process(Job(number=number, gate=gate), 60)))
        await eventually(gate.is_entered)

    async def work() -> None:
        gate.open()
        tasks = await asyncio.gather(*[flow.process(Job(number=number), DEADLINE) for number in range(5)])
        assert [task.number for task in tasks] == [1, 2, 3, 4, 5]
        assert flow.statistics().in_flight == 0
        await flow.stop()

    flow.start()
    asyncio.run(leave())
    asyncio.run(work())


async def test_the_blocking_start_works_inside_a_running_loop() -> None:
    flow = Flow(Each(handlers.add_one))
    flow.start()
    assert (await flow.process(Job(number=1))).number == 2
    await flow.stop()


async def test_the_blocking_start_raises_what_went_wrong() -> None:
    with pytest.raises(StartError, match="no model here"):
        Flow(Starting(handlers.fail_to_load)).start()
    with pytest.raises(StartTimeout):
        Flow(Starting(handlers.never_end)).start(timeout=0.5)


async def test_several_flows_run_side_by_side() -> None:
    one, two = Flow(Each(handlers.add_one), name="one"), Flow(Each(handlers.double), name="two")
    async with running(one), running(two):
        tasks = [flow.process(Job(number=number)) for number in range(20) for flow in (one, two)]
        numbers = [task.number for task in await asyncio.gather(*tasks)]
        assert numbers == [n for number in range(20) for n in (number + 1, number * 2)]


async def test_many_rounds_of_start_and_stop_leave_nothing() -> None:
    flow = Flow(Each(handlers.add_one), mp_start_method="forkserver")
    async with flow:  # what the event loop itself opens is open now
        await flow.process(Job(number=1))
    gc.collect()
    before = traces()
    for _ in range(3):
        async with flow:
            await flow.process(Job(number=1))
    gc.collect()
    left = traces() - before
    assert not left.descriptors


# Stopping


async def test_workers_run_on_stop_when_stopped_and_not_when_killed(tmp_path: Path) -> None:
    path = tmp_path / "life"
    async with running(Flow(Noting(path))) as flow:
        await flow.process(Job())
    assert notes(path) == ["start", "handle", "stop"]
    await flow.start_async()
    await flow.stop(graceful=False)
    assert notes(path) == ["start", "handle", "stop", "start"]


async def test_a_stop_that_is_not_graceful_ends_tasks_at_once(tmp_path: Path) -> None:
    flow = Flow(Each(handlers.enter_gate))
    await flow.start_async()
    gate = Gate(tmp_path)
    tasks = [asyncio.create_task(outcome(flow.process(Job(gate=gate), 60))) for _ in range(3)]
    await eventually(gate.is_entered)
    await asyncio.wait_for(flow.stop(graceful=False), DEADLINE)
    for ended in await asyncio.gather(*tasks):
        assert isinstance(ended, NotRunningError)
        assert "stopped" in str(ended)


async def test_callers_that_wait_for_a_place_are_told_of_the_stop(tmp_path: Path) -> None:
    flow = Flow(Each(handlers.enter_gate), queue_size=1)
    await flow.start_async()
    gate = Gate(tmp_path)
    tasks = [asyncio.create_task(outcome(flow.process(Job(gate=gate), 60))) for _ in range(5)]
    await eventually(gate.is_entered)
    await flow.stop(graceful=False)
    assert [type(ended) for ended in await asyncio.gather(*tasks)] == [NotRunningError] * 5


# Tasks


async def test_a_task_without_super_init_works() -> None:
    async with running(Flow(Each(handlers.add_one))) as flow:
        task = await flow.process(handlers.Bare(1))
        assert (task.number, task.priority) == (2, 0)
        assert task.task_id != handlers.Bare(1).task_id


async def test_a_dataclass_is_a_task() -> None:
    async with running(Flow(Each(handlers.add_one, handlers.replace_payload), Each(handlers.look_at_payload))) as flow:
        task = await flow.process(handlers.Ticket(1))
        assert (task.number, task.payload, vars(task)["length"]) == (2, b"new" * 10_000, 30_000)
        del task  # it keeps the payload in shared memory


def test_a_task_with_slots_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="__slots__"):

        class Slotted(BaseTask):
            __slots__ = ("number",)


async def test_a_task_may_go_through_twice_and_through_two_flows() -> None:
    async with running(Flow(Each(handlers.add_one))) as one, running(Flow(Each(handlers.double))) as two:
        task = Job(number=1)
        await one.process(task)
        await two.process(task)
        await one.process(task)
        assert task.number == 5


async def test_a_field_that_a_handler_deletes_is_gone_and_a_new_one_is_there() -> None:
    flow = Flow(Each(handlers.delete_payload, handlers.set_result))
    async with running(flow):
        task = await flow.process(Job(number=1, payload=b"x" * 50_000))
        assert not hasattr(task, "payload")
        assert task.result == 10


def test_the_representation_of_a_task_names_fields_and_shows_no_values() -> None:
    assert repr(Job(secret="hunter2", image=b"x" * 1000)).endswith(": image, secret, task_id>")


async def test_a_task_that_no_step_wants_comes_back_as_it_is() -> None:
    steps = FlowStep(Each(handlers.add_one), handlers.never), FlowStep(Each(handlers.add_one), handlers.never)
    async with running(Flow(*steps)) as flow:
        task = await flow.process(Job(number=1))
        assert (task.number, task.metrics.steps) == (1, ())


async def test_a_condition_that_raises_fails_its_task_only() -> None:
    steps = FlowStep(Each(handlers.pass_on)), FlowStep(Each(handlers.add_one), handlers.raise_on_negative)
    async with running(Flow(*steps)) as flow:
        ended = await asyncio.gather(*[outcome(flow.process(Job(number=number))) for number in (1, -1, 2)])
        assert [ended[0].number, ended[2].number] == [2, 3]
        assert isinstance(ended[1], ValueError)
        assert str(ended[1]) == "a negative number"


async def test_a_handler_can_see_that_the_deadline_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    async with running(Flow(Each(handlers.wait_for_deadline))) as flow:
        with pytest.raises(TaskTimeout):
            await flow.process(Job(path=path), 1)
        await eventually(lambda: len(notes(path)) == 2)
    assert notes(path) == ["False", "True"]


async def test_a_batch_handler_may_fail_tasks_one_by_one() -> None:
    async with running(Flow(FlowStep(Whole(handlers.fail_odd_ones), batch_size=4, batch_timeout=DEADLINE))) as flow:
        ended = await asyncio.gather(*[outcome(flow.process(Job(number=number), 60)) for number in range(4)])
        assert [ended[0].number, ended[2].number] == [0, 20]
        assert [str(ended[1]), str(ended[3])] == ["1 is odd", "3 is odd"]
        assert isinstance(ended[1], ValueError)


# Deadlines


async def test_a_timeout_tells_that_the_task_was_in_the_hands_of_a_worker(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.enter_gate))) as flow:
        gate = Gate(tmp_path)
        with pytest.raises(TaskTimeout, match=rf"in the hands of step step1_Each \(pid {pids(flow)[0]}\)") as caught:
            await flow.process(Job(gate=gate), 0.2)
        assert isinstance(caught.value, TimeoutError)
        gate.open()
        assert flow.statistics().timed_out == 1


async def test_a_timeout_tells_that_the_worker_had_not_begun_the_task(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.enter_gate_if_any))) as flow:
        await get_ahead(flow)
        async with busy(flow, Gate(tmp_path)):
            with pytest.raises(TaskTimeout, match=rf"hands of step step1_Each \(pid {pids(flow)[0]}\) .* not begun"):
                await flow.process(Job(), 0.2)


async def test_a_timeout_tells_that_the_answer_came_late() -> None:
    async with running(Flow(Each(handlers.work_a_while))) as flow:
        held = asyncio.create_task(outcome(flow.process(Job(), 0.4)))
        await asyncio.sleep(0)  # an idle worker gets it at once
        assert flow.statistics().steps[0].workers[0].in_flight
        # A busy event loop: it finds the answer and the end of the task's time in one turn. The worker has 0.6 s for
        # a few ms of work, and of `PAUSE`, after which the time would not count, 0.3 s are left.
        time.sleep(0.6)
        text = str(await held)
        assert re.search(r"timeout of a task after 0\.[678]", text)
        assert f"in the hands of step step1_Each (pid {pids(flow)[0]})" in text
        assert re.search(r"its answer came 0\.[2-4]\d* s late", text)


async def test_a_timeout_tells_how_many_others_wait(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.enter_gate_if_any))) as flow:
        async with busy(flow, Gate(tmp_path)):
            with pytest.raises(TaskTimeout, match="where 0 others wait and workers have 1 tasks in hand"):
                await flow.process(Job(), 0.1)


async def test_a_timeout_tells_that_the_task_was_waiting_and_then_it_never_runs(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    async with running(Flow(Each(handlers.enter_gate_if_any, handlers.write_down))) as flow:
        gate = Gate(tmp_path)
        held = asyncio.create_task(flow.process(Job(number=0, path=path, gate=gate), 60))
        await eventually(gate.is_entered)
        with pytest.raises(TaskTimeout, match="waiting for step step1_Each"):
            await flow.process(Job(number=1, path=path), 0.2)
        gate.open()
        await held
        await flow.process(Job(number=2, path=path))
    assert notes(path) == ["0", "2"]


async def test_a_timeout_tells_that_the_queue_was_full(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.enter_gate), queue_size=1)) as flow:
        gate = Gate(tmp_path)
        tasks = [asyncio.create_task(flow.process(Job(gate=gate), 60)) for _ in range(2)]
        await eventually(gate.is_entered)
        await eventually(lambda: flow.statistics().steps[0].queued == 1)
        with pytest.raises(TaskTimeout, match="waiting for a place in the queue of step step1_Each"):
            await flow.process(Job(gate=gate), 0.2)
        gate.open()
        await asyncio.gather(*tasks)


# Programs of users

ONE_FILE = """
    import asyncio
    from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

    class Sum(BaseTask):
        def __init__(self, numbers):
            super().__init__()
            self.numbers = numbers
            self.total = None

    class Adder(BaseTaskHandler):
        def handle(self, *tasks):
            for task in tasks:
                task.total = sum(task.numbers)

    def wanted(task):
        return bool(task.numbers)

    flow = Flow(FlowStep(Adder(), handle_condition=wanted), mp_start_method="{method}")

    async def main():
        async with flow:
            task = await flow.process(Sum([1, 2, 3]))
        print(type(task).__module__, task.total)

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_everything_in_one_file(tmp_path: Path, method: str) -> None:
    assert run_script(tmp_path, ONE_FILE.format(method=method)) == "__main__ 6\n"


def test_a_missing_guard_of_the_main_module_is_a_start_error_and_not_a_hang(tmp_path: Path) -> None:
    source = """
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, pass_on

        flow = Flow(Each(pass_on), mp_start_method="forkserver")
        flow.start()
    """
    script = write_script(tmp_path, source)
    environment = script_environment()
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert "StartError" in done.stderr


def test_one_file_run_as_a_module(tmp_path: Path) -> None:
    assert run_script(tmp_path, ONE_FILE.format(method="spawn"), "-m", "main") == "__main__ 6\n"


def test_the_workers_see_the_path_and_arguments_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "vendored").mkdir()
    (tmp_path / "vendored" / "models.py").write_text("NAME = 'vendored'\n")
    source = """
        import asyncio, sys
        sys.path.insert(0, "vendored")
        sys.argv.append("--flag")
        from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow

        class Look(BaseTaskHandler):
            def handle(self, *tasks):
                import models
                for task in tasks:
                    task.seen = models.NAME, sys.argv[-1]

        async def main():
            async with Flow(Look()) as flow:
                print(*(await flow.process(BaseTask())).seen)

        if __name__ == "__main__":
            asyncio.run(main())
    """
    assert run_script(tmp_path, source) == "vendored --flag\n"


def test_numeric_libraries_get_their_share_of_the_cores(tmp_path: Path) -> None:
    source = """
        import asyncio, os
        from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

        class Look(BaseTaskHandler):
            def handle(self, *tasks):
                for task in tasks:
                    task.seen = os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")

        async def main():
            async with Flow(FlowStep(Look(), nprocs=2)) as flow:
                print(*(await flow.process(BaseTask())).seen, "OMP_NUM_THREADS" in os.environ)

        if __name__ == "__main__":
            os.environ["MKL_NUM_THREADS"] = "77"
            os.environ.pop("OMP_NUM_THREADS", None)
            asyncio.run(main())
    """
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert run_script(tmp_path, source) in {f"{n} 77 False\n" for n in range(1, threads + 1)}
