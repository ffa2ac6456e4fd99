"""Templates and their workers under load: killed, left alone by a dead server, and shared with a fork of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from fastapi_aqueduct import Autoscale, Flow, FlowStep
from fastapi_aqueduct.engine.timing import Timing

from ..handlers import Each, Job, add_one, double, nothing
from ..support import DEADLINE, Ends, eventually, pids, run_script, running
from .support import complete, parent
from .test_orphans import running_script

CALLERS = 8

SERVER = """
    import asyncio
    from fastapi_aqueduct import Flow, FlowStep
    from tests import handlers
    from tests.handlers import Each, Job

    async def main():
        async with Flow(FlowStep(Each(handlers.spin), nprocs=2), template=handlers.nothing) as flow:
            calls = [asyncio.create_task(flow.process(Job(), 300))]  # keeps one worker busy
            statistics = flow.statistics()
            print(statistics.template.pid, *[worker.pid for worker in statistics.steps[0].workers], flush=True)
            await asyncio.Event().wait()

    if __name__ == "__main__":
        asyncio.run(main())
"""

FORKING = """
    import os
    import signal
    from fastapi_aqueduct import Flow
    from fastapi_aqueduct.logger import log
    from tests import handlers
    from tests.handlers import Each, Job
    from tests.support import DEADLINE, pids, wait_until

    if __name__ == "__main__":
        log.disabled = True
        flow = Flow(Each(handlers.tell_pid), template=handlers.nothing)
        flow.start()
        child = os.fork()
        if child == 0:
            os._exit(7 if flow.is_running or flow.statistics().template else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        job = Job()
        flow.process_blocking(job, DEADLINE)  # from now on an event loop of the flow's own watches the worker
        first = job.pid
        os.kill(first, signal.SIGKILL)
        assert wait_until(lambda: pids(flow) not in ([], [first]), DEADLINE)
        flow.process_blocking(job, DEADLINE)
        assert job.pid == pids(flow)[0] != first
        print("goes on")  # and ends without a stop
"""


async def test_under_load_a_template_and_workers_are_killed_and_no_call_fails() -> None:
    steps = FlowStep(Each(add_one), nprocs=2, batch_size=4, max_retries=5), FlowStep(Each(double), max_retries=5)
    # Where a start takes long, as it may here, deaths one after the other make the next one wait longer.
    timing = Timing(first_wait=0.02, longest_wait=0.05)
    async with running(Flow(*steps, template=nothing, timing=timing)) as flow:
        is_over = asyncio.Event()

        async def call(number: int) -> int:
            count = 0
            while not is_over.is_set():
                assert (await flow.process(Job(number=number, payload=b"x" * 20_000), 60)).number == 2 * (number + 1)
                count += 1
            return count

        callers = [asyncio.create_task(call(number)) for number in range(CALLERS)]
        for deaths in (1, 2):
            template = flow.statistics().template
            assert template is not None
            assert template.pid is not None
            victims = [pids(flow, step)[0] for step in range(2)]
            for pid in (template.pid, *victims):
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda deaths=deaths: deaths_of(flow) == deaths)  # type: ignore[misc]
            for step, victim in enumerate(victims):  # their deaths may be seen after that of the template
                await eventually(lambda step=step, victim=victim: victim not in pids(flow, step))  # type: ignore[misc]
                await complete(flow, steps[step].nprocs, step)
        is_over.set()
        assert min(await asyncio.gather(*callers)) > 0
        statistics = flow.statistics()
        assert (statistics.failed, statistics.timed_out, statistics.in_flight) == (0, 0, 0)


async def test_another_handler_runs_in_forks_too_also_of_a_later_template() -> None:
    async with running(Flow(FlowStep(Each(add_one), name="first"), template=nothing)) as flow:
        await flow.steps["first"].replace(Each(double))
        assert (await flow.process(Job(number=5))).number == 10
        template = flow.statistics().template
        assert template is not None
        assert template.pid is not None
        os.kill(template.pid, signal.SIGKILL)
        await eventually(lambda: deaths_of(flow) == 1)
        await flow.steps["first"].restart()
        assert (await flow.process(Job(number=5))).number == 10
        template = flow.statistics().template
        assert template is not None
        assert [parent(pid) for pid in pids(flow)] == [template.pid]


async def test_a_canary_is_a_fork_of_the_template_too_and_comes_back_from_a_later_one() -> None:
    async with running(Flow(FlowStep(Each(add_one), name="first"), template=nothing)) as flow:
        step = flow.steps["first"]
        async with step.canary(Each(double), share=0.5) as canary:
            first = template_pid(flow)
            assert {parent(worker.pid or 0) for worker in step.statistics().workers} == {first}
            numbers = [(await flow.process(Job(number=5))).number for _ in range(4)]
            assert sorted(numbers) == [6, 6, 10, 10]
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: deaths_of(flow) == 1)
            (pid,) = [worker.pid for worker in step.statistics().workers if worker.role == "canary"]
            os.kill(pid or 0, signal.SIGKILL)
            await eventually(lambda: canary.report().candidate.deaths == 1)
            await eventually(lambda: len(pids(flow)) == 2)
            await canary.promote()
        assert [parent(pid) for pid in pids(flow)] == [template_pid(flow)] != [first]
        assert (await flow.process(Job(number=5))).number == 10


async def test_a_step_that_sleeps_is_woken_by_forks_of_the_template_or_of_a_later_one() -> None:
    step = FlowStep(Each(add_one), nprocs=Autoscale(0, 2, idle_after=0.2), name="first")
    async with running(Flow(step, template=nothing)) as flow:
        templates = []
        for deaths in range(2):
            await eventually(lambda: flow.statistics().steps[0].is_asleep and not flow.statistics().steps[0].workers)
            if deaths:
                os.kill(template_pid(flow), signal.SIGKILL)
                await eventually(lambda: deaths_of(flow) == 1)
            call = asyncio.create_task(flow.process(Job(number=5), DEADLINE))
            await eventually(lambda: pids(flow))
            templates.append(template_pid(flow))
            assert {parent(pid) for pid in pids(flow)} <= {templates[-1]}
            assert (await call).number == 6
        assert templates[0] != templates[1]
        assert flow.statistics().failed == 0


def template_pid(flow: Flow) -> int:
    template = flow.statistics().template
    assert template is not None
    return template.pid or 0


def deaths_of(flow: Flow) -> int:
    template = flow.statistics().template
    assert template is not None
    return template.deaths


def test_a_second_after_the_server_was_killed_neither_a_template_nor_its_workers_are_alive(tmp_path: Path) -> None:
    with running_script(tmp_path, SERVER) as (process, (template, *workers)), Ends([template, *workers]) as ends:
        process.kill()
        assert ends.wait(1.0) == set()


def test_a_fork_of_the_server_leaves_the_template_to_it_and_the_end_of_the_server_ends_it(tmp_path: Path) -> None:
    assert run_script(tmp_path, FORKING) == "goes on\n"
