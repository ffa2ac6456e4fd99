"""The plan of a flow: a process without the user's code runs the flow from it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fastapi_aqueduct import (
    Autoscale,
    BaseTask,
    BaseTaskHandler,
    ConfigurationError,
    Flow,
    FlowStep,
    StartError,
    WorkerOptions,
)
from fastapi_aqueduct.engine.options import EngineOptions
from fastapi_aqueduct.engine.shared.packed_handler import PackedHandler, pack_handler
from fastapi_aqueduct.engine.shared.plan import Plan, make_plan
from fastapi_aqueduct.engine.shared.planned_starter import PlannedStarter

from ..engine import forms
from ..support import DEADLINE, run_script

USER_CODE = """
    import functools, os
    from contextvars import ContextVar
    from enum import IntEnum, StrEnum

    from fastapi_aqueduct import BaseTaskHandler

    REQUEST = ContextVar("request")

    class Name(StrEnum):
        FLOW = "ocr"
        STEP = "double"

    class Size(IntEnum):
        TWO = 2

    class Double(BaseTaskHandler):
        def __init__(self, factor=2):
            self.factor = factor

        def on_start(self):
            self.loaded = load()

        def handle(self, *tasks):
            for task in tasks:
                task.number *= self.factor
                task.seen = [os.environ["AQUEDUCT_TEST"], os.environ.get("SET_BY_CODE"), self.loaded]

    class Only(BaseTaskHandler):
        async def handle(self, *tasks):
            tasks[0].steps = [*getattr(tasks[0], "steps", ()), "async"]

    def is_large(task):
        return task.number > 10

    @functools.cache
    def load():
        return os.environ.get("INIT", "no init")

    def init():
        os.environ["INIT"] = "init"

    def variables(index):
        return {"AQUEDUCT_TEST": ["first", "second"][index]}

    os.environ["SET_BY_CODE"] = "yes"
"""

MAKER = """
    import sys
    from pathlib import Path

    import user_code
    from user_code import Double, Name, Only, Size
    from fastapi_aqueduct import BaseTaskHandler, Flow, FlowStep, WorkerOptions
    from fastapi_aqueduct.engine.shared.packed_handler import pack_handler
    from fastapi_aqueduct.engine.shared.plan import make_plan

    class InMain(BaseTaskHandler):
        def handle(self, *tasks):
            tasks[0].steps = [*getattr(tasks[0], "steps", ()), "main"]
            yield "an item"

    if __name__ == "__main__":
        kind = sys.argv[1]
        worker = None if kind == "template" else WorkerOptions(env=user_code.variables)
        flow = Flow(
            FlowStep(Double(), batch_size=Size.TWO, name=Name.STEP, worker=worker),
            FlowStep(Only(), user_code.is_large, concurrency=3),
            InMain(),
            name=Name.FLOW,
            context=[user_code.REQUEST],
            mp_start_method="forkserver" if kind == "forkserver" else "spawn",
            template=user_code.load if kind == "template" else None,
            worker_init=user_code.init,
        )
        options = flow._lifecycle.options
        Path("plan").write_bytes(make_plan(options).pack())
        Path("handler").write_bytes(__import__("pickle").dumps(pack_handler(options, 0, Double(100))))
"""

RUNNER = """
    import asyncio, os, pickle, sys
    from pathlib import Path

    from fastapi_aqueduct.engine.engine import LocalEngine
    from fastapi_aqueduct.engine.shared.plan import Plan
    from fastapi_aqueduct.engine.shared.planned_starter import PlannedStarter
    from fastapi_aqueduct.task import BaseTask

    async def ask(engine, number):
        task = BaseTask()
        task.number = number
        await engine.process(task, 60.0)
        return task.number, task.seen, task.steps

    async def main(plan, handler):
        print([(name, step.batch_size, step.places) for name, step in plan.options.steps])
        engine = LocalEngine.build(plan.options, PlannedStarter(plan))
        try:
            await engine.start(60.0)
            print(await ask(engine, 1))
            print(await ask(engine, 21))
            await engine.replace(0, handler, False)
            print(await ask(engine, 1))
        finally:
            await engine.close(kill=False)

    if __name__ == "__main__":
        folder = Path(sys.argv[1])
        assert str(folder) not in sys.path and "SET_BY_CODE" not in os.environ
        plan = Plan.unpack((folder / "plan").read_bytes())
        os.environ.clear()
        os.environ.update(plan.environment)
        asyncio.run(main(plan, pickle.loads((folder / "handler").read_bytes())))
        strange = "user_code", "fastapi", "starlette", "main"
        print([name for name in sys.modules if name.partition(".")[0] in strange])
"""


@pytest.mark.parametrize("kind", ["spawn", "forkserver", "template"])
def test_a_process_without_the_users_code_runs_a_flow_from_its_plan(kind: str, tmp_path: Path) -> None:
    user, pipeline = tmp_path / "user", tmp_path / "pipeline"
    user.mkdir()
    pipeline.mkdir()
    (user / "user_code.py").write_text("".join(line.removeprefix("    ") for line in USER_CODE.splitlines(True)))
    environment = {"AQUEDUCT_TEST": "no function"} if kind == "template" else {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        run_script(user, MAKER, "main.py", kind)
    output = run_script(pipeline, RUNNER, "main.py", str(user), timeout=4 * DEADLINE).splitlines()
    loaded = "no init" if kind == "template" else "init"  # the template has loaded before
    seen = ["no function" if kind == "template" else "first", "yes", loaded]
    assert output[0] == "[('double', 2, 0), ('step2_Only', 1, 3), ('step3_InMain', 1, 1)]"
    assert output[1] == str((2, seen, ["main"]))
    assert output[2] == str((42, seen, ["async", "main"]))
    assert output[3] == str((100, seen, ["async", "main"]))
    assert output[4:] == ["[]"]


def options_of(*steps: FlowStep | BaseTaskHandler, **options: Any) -> EngineOptions:
    return Flow(*steps, **options)._lifecycle.options


def travelled(options: EngineOptions) -> Plan:
    return Plan.unpack(make_plan(options).pack())


@pytest.mark.parametrize("form", ["Plain", "Generator", "Rounds", "Coroutine", "AsyncGenerator"])
def test_a_step_keeps_its_numbers_and_its_form(form: str) -> None:
    declared: dict[str, Any] = {"nprocs": Autoscale(0, 4, idle_after=9.0), "max_retries": 3, "max_age": 60.0}
    declared |= {"continuous": True, "batch_size": 8} if form == "Rounds" else {}
    declared |= {"concurrency": 7} if "Generator" in form else {}
    step = FlowStep(getattr(forms, form)(), is_marked, name="named", **declared)
    options = options_of(step, queue_size=5, queue_priorities=3, memory_limit=2 << 20, stop_timeout=1.5)
    found = travelled(options).options
    ((name, bare),) = found.steps
    assert name == "named"
    code = ("handler", "handle_condition", "_named_after")
    assert {key: value for key, value in vars(bare).items() if key not in code} == {
        key: value for key, value in vars(step).items() if key not in code
    }
    assert (bare.places, bare.call_size, bare.most_workers) == (step.places, step.call_size, step.most_workers)
    assert isinstance(bare.handler, PackedHandler)
    for option in ("queue_size", "priorities", "memory_limit", "stop_timeout", "start_timeout", "timing"):
        assert getattr(found, option) == getattr(options, option)


def is_marked(task: BaseTask) -> bool:
    return hasattr(task, "mark")


class First(BaseTaskHandler):
    def handle(self, *tasks: Any) -> None:
        pass


class Second(First):
    pass


class Other(BaseTaskHandler):
    async def handle(self, *tasks: Any) -> None:
        pass


def test_another_handler_takes_the_place_of_one_in_a_plan() -> None:
    options = options_of(First(), First())
    plan = make_plan(options)
    changed = Plan.unpack(plan.with_handler(1, pack_handler(options, 1, Second()), 4).pack())
    assert (changed.programs[0], list(changed.versions)) == (plan.programs[0], [1, 4])
    assert (b"Second" in changed.programs[1], b"Second" in plan.programs[1]) == (True, False)
    specs = PlannedStarter(changed).make_specs()
    try:
        assert [spec.version for spec in specs] == [1, 4]
    finally:
        for spec in specs:
            spec.close()


def test_a_handler_of_another_form_is_refused_before_it_travels() -> None:
    options = options_of(First())
    with pytest.raises(ConfigurationError, match="Other cannot take the place of First"):
        pack_handler(options, 0, Other())


def test_what_cannot_be_pickled_is_named_when_the_plan_is_made() -> None:
    handler = First()
    handler.lock = asyncio.Event, lambda: None  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="the handler of step1_First in flow flow cannot be sent"):
        make_plan(options_of(handler))


def two_variables(index: int) -> Mapping[str, str]:
    return MappingProxyType({"PORT": ["8001", "8002"][index]})


def test_a_function_for_the_environment_is_asked_for_all_workers_when_the_plan_is_made() -> None:
    plan = travelled(options_of(FlowStep(First(), nprocs=2, worker=WorkerOptions(["0", "1"], two_variables, 3))))
    worker = plan.options.steps[0][1].worker
    assert worker is not None
    assert [worker.variables(index) for index in (0, 1)] == [{"PORT": "8001"}, {"PORT": "8002"}]
    assert (list(worker.devices), worker.threads) == (["0", "1"], 3)
    with pytest.raises(ConfigurationError, match="env of WorkerOptions has raised for worker 2 of .*: IndexError"):
        worker.variables(2)
    with pytest.raises(StartError, match="step1_First in flow flow could not be started: IndexError"):
        make_plan(options_of(FlowStep(First(), nprocs=3, worker=WorkerOptions(env=two_variables))))
