"""Handlers and steps of which nothing would run are refused where they are written."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_aqueduct import BaseTask, BaseTaskHandler, ConfigurationError, Flow, FlowStep, StartError

from ..handlers import Each, is_even
from ..support import outcome, pids, running
from . import handlers
from .handlers import Number


def refused(words: str) -> Any:
    return pytest.raises(ConfigurationError, match=f"{re.escape(words)}$")




def test_a_coroutine_function_as_handle() -> None:
    words = (
        "H.handle is declared with `async def`, but a worker calls it as an ordinary function, so its body would not "
        "run; write `def handle(self, *tasks)` and set results as attributes of the tasks; run coroutines in it with "
        "`asyncio.run(...)`"
    )
    with refused(words):

        class H(BaseTaskHandler):
            async def handle(self, *tasks: BaseTask) -> None: ...  # type: ignore[override]


def test_an_asynchronous_generator_function_as_handle() -> None:
    words = (
        "A.handle has a `yield`, but a worker calls it as an ordinary function, so its body would not run; write "
        "`def handle(self, *tasks)` and set results as attributes of the tasks; run coroutines in it with "
        "`asyncio.run(...)`"
    )
    with refused(words):

        class A(BaseTaskHandler):
            async def handle(self, *tasks: BaseTask) -> AsyncIterator[int]:  # type: ignore[override]
                yield 1


@pytest.mark.parametrize("method", ["on_start", "on_stop"])
def test_a_coroutine_function_at_the_start_or_the_end(method: str) -> None:
    async def function(self: Any) -> None: ...

    words = (
        f"H.{method} is declared with `async def`, but a worker calls it as an ordinary function, so its body would "
        f"not run; write `def {method}(self)`, and run coroutines in it with `asyncio.run(...)`"
    )
    with refused(words):
        type("H", (BaseTaskHandler,), {method: function})


def test_a_method_that_comes_from_elsewhere() -> None:
    """From a class beside the handler, or into an instance."""

    class Waiting:
        async def handle(self, *tasks: BaseTask) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Mixed\.handle is declared with `async def`"):

        class Mixed(Waiting, BaseTaskHandler):  # type: ignore[misc]
            pass

    handler = Each()
    handler.handle = functools.partial(Waiting.handle, Waiting())  # type: ignore[assignment,method-assign]
    with pytest.raises(ConfigurationError, match=r"^Each\.handle is declared with `async def`"):
        FlowStep(handler)
    handler.handle = None  # type: ignore[assignment,method-assign]
    with refused("Each.handle is not callable, got None"):
        Flow(handler)


class Base(BaseTaskHandler):
    """What handlers have in common; a class without `handle` may be that."""


def test_a_handler_without_handle() -> None:
    with refused("Base has no method `handle`; define `def handle(self, *tasks)` in it"):
        FlowStep(Base())
    with refused("Base has no method `handle`; define `def handle(self, *tasks)` in it"):
        Flow(Base())


def test_a_lambda_as_condition() -> None:
    """Also one with a name, in a partial function, or a function inside another."""

    def inner(task: Any) -> bool:
        return True

    named = lambda task: True  # noqa: E731
    advice = "which cannot be sent to a worker process; define a function at the top level of a module"
    for condition in (lambda task: True, named, functools.partial(lambda task, limit: True, limit=1)):
        with refused(f"handle_condition of the step with Each is a lambda, {advice}"):
            FlowStep(Each(), handle_condition=condition)
    name = "test_a_lambda_as_condition.<locals>.inner, a function inside another one"
    with refused(f"handle_condition of the step with Each is {name}, {advice}"):
        FlowStep(Each(), handle_condition=inner)
    FlowStep(Each(), handle_condition=functools.partial(is_even))


# What only the worker sees


async def test_what_handle_returns_is_ignored_with_one_warning(capfd: pytest.CaptureFixture[str]) -> None:
    """On the worker's stderr, where the log of a process goes that has configured none."""
    async with running(Flow(FlowStep(handlers.Returning(), batch_size=2))) as flow:
        for value in range(3):
            assert (await flow.process(Number(value))).value == value + 1
        (pid,) = pids(flow)
    said = f"step1_Returning (pid {pid}): Returning.handle returned a list, which is ignored; set results as attributes"
    assert capfd.readouterr().err == f"{said} of the tasks\n"


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (handlers.HiddenCoroutine(), "coroutine"),
        (handlers.HiddenGenerator(), "generator"),
        (handlers.HiddenAsyncGenerator(), "async_generator"),
    ],
)
async def test_a_coroutine_that_is_returned_fails_the_task(
    handler: BaseTaskHandler, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is not taken for an answer, and the worker goes on."""
    async with running(Flow(handler)) as flow:
        for _ in range(2):
            failure = await outcome(flow.process(Number()))
            assert isinstance(failure, ConfigurationError)
            assert str(failure) == (
                f"{type(handler).__name__}.handle returned a {kind}, so nothing of it has run: a worker calls it as an "
                "ordinary function; let it do its work before it returns"
            )
    assert capfd.readouterr().err == ""


async def test_a_coroutine_that_is_returned_fails_the_start() -> None:
    flow = Flow(handlers.HiddenStart())
    with pytest.raises(StartError, match=r"HiddenStart\.on_start returned a coroutine, so nothing of it has run"):
        await flow.start_async()
