"""The context of a call of a handler, in each form: the current tasks, and the context variables of callers."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import ConfigurationError, Flow, FlowStep, StartError, TaskNotPicklable, task_context
from fastapi_aqueduct.engine.wire.extras import Extras, pack_extras, unpack_extras

from .. import handlers
from ..handlers import Job, Noting, notes
from ..support import eventually, outcome, run_script, running
from . import surroundings
from .surroundings import REQUEST, USER, Fragile

BATCH = {"batch_size": 4, "batch_timeout": 0.2}

HANDLERS: dict[str, Any] = {
    "plain": (surroundings.Plain, BATCH),
    "each": (surroundings.Each, BATCH),
    "rounds": (surroundings.Rounds, BATCH),
    "continuous": (surroundings.Rounds, {"batch_size": 4, "continuous": True}),
    "generator": (surroundings.Generator, {"concurrency": 4}),
    "coroutine for a batch": (surroundings.Coroutine, BATCH),
    "async generator": (surroundings.AsyncGenerator, {}),
    "coroutine": (surroundings.Coroutine, {}),
    "last": (surroundings.Plain, {}),
}


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    """One flow for all tests, with a step of each form; a task goes to the step that it names."""
    steps = [
        FlowStep(handler(), handle_condition=surroundings.Form(form), **options)
        for form, (handler, options) in HANDLERS.items()
    ]
    flow = Flow(*steps, context=[REQUEST, USER])
    flow.start()
    yield flow
    asyncio.run(flow.stop())


async def process(
    flow: Flow, form: str, requests: Any = ("a", "b", "a", None), users: Any = (None,) * 4, **fields: Any
) -> list[Any]:
    """Send four tasks at once, each from a context of its own."""
    jobs = [Job(number=number, form=form, act=fields.get(f"act_{number}")) for number in range(4)]

    async def call(job: Any) -> Any:
        for variable, values in ((REQUEST, requests), (USER, users)):
            if values[job.number] is not None:
                variable.set(values[job.number])
        return await outcome(flow.process(job, 60))

    return await asyncio.gather(*[call(job) for job in jobs])


# The current tasks


async def test_the_tasks_of_a_batch_are_current_in_its_thread(flow: Flow) -> None:
    for job in await process(flow, "plain"):
        assert job.seen == [[0, 1, 2, 3], [], [0, 1, 2, 3]]


async def test_a_task_that_runs_again_alone_is_current_alone(flow: Flow) -> None:
    done = await process(flow, "plain", act_2="fail")
    assert isinstance(done.pop(2), ValueError)
    assert [job.seen for job in done] == [[[job.number], [], [job.number]] for job in done]
    assert [job.values[0][0] for job in done] == ["a", "b", None]


async def test_the_tasks_of_a_round_are_current_in_it(flow: Flow) -> None:
    done = await process(flow, "rounds")
    assert done[3].seen == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]


async def test_the_tasks_that_have_joined_are_current(flow: Flow) -> None:
    for job in await process(flow, "continuous"):
        assert all(job.number in seen for seen in job.seen)


@pytest.mark.parametrize("form", ["generator", "coroutine", "async generator"])
async def test_each_of_several_calls_has_its_own_task(form: str, flow: Flow) -> None:
    for job in await process(flow, form):
        assert job.seen == [[job.number]] * len(job.seen)
        assert len(job.seen) >= 2
        assert {values[0] for values in job.values} == {("a", "b", "a", None)[job.number]}


async def test_what_outlives_a_call_works_for_no_task(flow: Flow) -> None:
    await process(flow, "coroutine for a batch")
    assert (await process(flow, "coroutine for a batch"))[0].late == 0


def test_extras_come_back() -> None:
    for values, trace in (({}, b""), ({0: b"abc", 2: b"d"}, b""), ({}, b"00-af"), ({1: b"e"}, b"00-af")):
        assert unpack_extras(pack_extras(values, trace)) == Extras(values, trace)
    assert pack_extras({}) == b""


# The context of callers


async def test_a_batch_has_the_values_in_which_all_its_callers_agree(flow: Flow) -> None:
    for job in await process(flow, "plain", users=("eve",) * 4):
        assert job.values == [(None, "eve", "local"), (None, "unknown", None), (None, "eve", "local")]
    for job in await process(flow, "plain", requests=("a",) * 4, users=("eve", "eve", "bob", "eve")):
        assert job.values[0] == ("a", "unknown", "local")


async def test_code_works_for_one_task_of_a_batch(flow: Flow) -> None:
    done = await process(flow, "each", users=("eve", "bob", None, "eve"))
    assert [job.values[0][:2] for job in done] == [("a", "eve"), ("b", "bob"), ("a", "unknown"), (None, "eve")]
    assert [job.seen for job in done] == [[[job.number], [0, 1, 2, 3]] for job in done]
    assert {job.values[1] for job in done} == {(None, "unknown", "local")}


async def test_a_round_has_the_values_in_which_the_callers_of_its_tasks_agree(flow: Flow) -> None:
    done = await process(flow, "rounds", requests=("a", "b", "b", "a"))
    assert [values[0] for values in done[3].values] == [None, None, None, "a"]
    done = await process(flow, "rounds", requests=("b", "a", "a", None))
    assert [values[0] for values in done[3].values] == [None, None, None, None]
    assert [values[0] for values in done[2].values] == [None, None, None]
    done = await process(flow, "rounds", requests=("a", "b", "b", "b"))
    assert [values[0] for values in done[3].values] == [None, "b", "b", "b"]


async def test_a_continuous_call_has_the_values_of_those_who_are_in_it(flow: Flow) -> None:
    for job in await process(flow, "continuous", requests=("a", "b", "c", "d")):
        for seen, values in zip(job.seen, job.values, strict=True):
            assert values[0] == ("abcd"[seen[0]] if len(seen) == 1 else None)
    for job in await process(flow, "continuous", requests=("a",) * 4):
        assert {values[0] for values in job.values} == {"a"}


async def test_what_a_generator_sets_is_its_own(flow: Flow) -> None:
    for job in await process(flow, "generator"):
        assert [values[2] for values in job.values] == ["local", job.number, job.number, job.number]


async def test_a_closed_generator_has_the_values_of_its_caller(flow: Flow, tmp_path: Path) -> None:
    REQUEST.set("leaving")
    stream = flow.stream(Job(number=7, form="generator", act="leave", mark=tmp_path / "notes"), 60)
    assert await anext(stream) == 0
    await stream.aclose()
    await eventually(lambda: notes(tmp_path / "notes") == ["leaving-7"])


async def test_a_stream_has_the_values_of_the_call_and_not_of_its_iteration(flow: Flow) -> None:
    REQUEST.set("the call")
    stream = flow.stream(task := Job(number=0, form="async generator", act=""), 60)
    REQUEST.set("the iteration")
    assert [item async for item in stream] == [0, 1, 2]
    assert {values[0] for values in task.values} == {"the call"}


async def test_a_call_from_a_thread_has_the_values_of_the_thread(flow: Flow) -> None:
    async def in_another_loop() -> Any:
        USER.set("loop")
        return await flow.process(Job(number=0, form="coroutine", act=""))

    flow.adopt()
    for value, call in (("thread", flow.process_blocking), ("loop", lambda job: asyncio.run(in_another_loop()))):
        context = contextvars.copy_context()
        context.run(USER.set, "thread")
        done = await asyncio.to_thread(context.run, call, Job(number=0, form="coroutine", act=""))
        assert done.values[0] == (None, value, "local")


async def test_a_task_that_is_tried_again_has_its_values_again(tmp_path: Path) -> None:
    async with running(Flow(surroundings.Plain(), context=[REQUEST, USER])) as flow:
        REQUEST.set("again")
        job = await flow.process(Job(number=0, act="die once", mark=tmp_path / "mark"), 60)
    assert job.values[0] == ("again", "unknown", "local")


async def test_a_condition_in_a_worker_sees_the_values(flow: Flow) -> None:
    REQUEST.set("to last")
    job = await flow.process(Job(number=0, form="chosen by context", act=""))
    assert [step.step for step in job.metrics.steps] == ["step8_Coroutine", "step9_Plain"]


async def test_a_value_that_cannot_travel_is_named(flow: Flow) -> None:
    REQUEST.set(threading.Lock())
    message = "context variable request_id, of type lock, cannot travel.*leave the variable out"
    with pytest.raises(TaskNotPicklable, match=message):
        await flow.process(Job(number=0, form="plain", act=""))
    with pytest.raises(TaskNotPicklable, match=message):
        flow.stream(Job(number=0, form="generator", act=""))
    assert flow.statistics().in_flight == 0


@pytest.mark.parametrize("form", HANDLERS)
async def test_a_value_that_a_worker_cannot_rebuild_fails_its_task_alone(form: str, flow: Flow) -> None:
    done = await process(flow, form, requests=(*"aaa", Fragile()))
    assert [type(end) for end in done] == [Job, Job, Job, ValueError]


def test_nothing_surrounds_a_task_outside_of_a_worker() -> None:
    with task_context(Job()):
        pass


# The declaration


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ([REQUEST, "user"], "must be a list of ContextVars"),
        (REQUEST, "must be a list of ContextVars"),
        ([REQUEST, ContextVar("request_id")], "'request_id'.*another one has this name"),
        ([ContextVar("module")], "'module'.*a log record has this name"),
        ([ContextVar("task_id")], "'task_id'.*a log record has this name"),
    ],
)
def test_variables_that_cannot_travel_are_refused(context: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Flow(surroundings.Plain(), context=context)


async def test_a_variable_that_workers_cannot_find_is_refused_at_the_start() -> None:
    flow = Flow(surroundings.Plain(), context=[ContextVar("hidden")], name="ocr")
    with pytest.raises(ConfigurationError, match="flow ocr cannot find.*'hidden'.*assign it.*top level of a module"):
        await flow.start_async()


def test_a_variable_is_found_where_it_is_defined_or_in_the_script(tmp_path: Path) -> None:
    """Not where it is imported: that module may be the application's, and here no worker can import it."""
    (tmp_path / "ids.py").write_text(
        "from contextvars import ContextVar\nrequest_id: ContextVar[str] = ContextVar('request_id')\n"
    )
    (tmp_path / "web.py").write_text(
        "import sys\nassert vars(sys.modules['__main__'])['IS_SERVER']\nfrom ids import request_id\n"
    )
    source = """
        IS_SERVER = __name__ == "__main__"
        if IS_SERVER:
            import web
        from contextvars import ContextVar
        from ids import request_id
        from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow

        user = ContextVar("user_name")

        class Look(BaseTaskHandler):
            def handle(self, task):
                task.seen = request_id.get(), user.get()

        if __name__ == "__main__":
            flow = Flow(Look(), context=[request_id, user])
            flow.start()
            request_id.set("abc")
            user.set("eve")
            print(flow.process_blocking(BaseTask()).seen)
    """
    assert run_script(tmp_path, source).split() == ["('abc',", "'eve')"]


# worker_init


async def test_worker_init_runs_before_on_start(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(Flow(Noting(path), worker_init=surroundings.Initial(path))) as flow:
        await flow.process(Job())
    assert notes(path) == ["init", "start", "handle", "stop"]


async def test_worker_init_may_be_a_coroutine_function_in_the_loop_of_the_handler() -> None:
    async with running(Flow(surroundings.Loop(), worker_init=surroundings.initial_in_loop)) as flow:
        assert (await flow.process(Job())).is_same_loop


async def test_a_worker_init_that_fails_ends_the_start() -> None:
    flow = Flow(handlers.Each(), worker_init=surroundings.failing_init)
    with pytest.raises(StartError, match=r"failed in worker_init \(failing_init\): ValueError: no seed") as caught:
        await flow.start_async()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(("worker_init", "message"), [(7, "must be a function"), (handlers.count_up, "has a `yield`")])
def test_a_worker_init_that_cannot_run_is_refused(worker_init: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"worker_init of flow.*{message}"):
        Flow(handlers.Each(), worker_init=worker_init)


async def test_a_worker_init_that_cannot_travel_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="worker_init of flow flow cannot be sent.*lambda"):
        await Flow(handlers.Each(), worker_init=lambda: None).start_async()
