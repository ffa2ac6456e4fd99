"""Handlers and steps of which nothing would run are refused where they are written."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, FlowStep, StartError

from ..handlers import Each, is_even
from ..support import outcome, pids, running
from . import handlers
from .handlers import Number


def refused(words: str) -> Any:
    return pytest.raises(ConfigurationError, match=f"{re.escape(words)}$")


@pytest.mark.parametrize("method", ["on_start", "on_stop"])
def test_a_generator_function_at_the_start_or_the_end(method: str) -> None:
    def generator(self: Any) -> Iterator[int]:
        yield 1

    async def async_generator(self: Any) -> AsyncIterator[int]:
        yield 1

    words = (
        f"H.{method} has a `yield`, but a worker calls it once, so its body would not run; write `def {method}(self)` "
        f"or `async def {method}(self)` without a `yield`"
    )
    for function in (generator, async_generator):
        with refused(words):
            type("H", (BaseTaskHandler,), {method: function})


def test_a_method_that_comes_from_elsewhere() -> None:
    """From a class beside the handler, or into an instance."""

    class Opening:
        def on_start(self) -> Iterator[int]:
            yield 1

    with pytest.raises(ConfigurationError, match=r"Mixed\.on_start has a `yield`"):

        class Mixed(Opening, BaseTaskHandler):  # type: ignore[misc]
            pass

    handler = Each()
    handler.on_start = functools.partial(Opening.on_start, Opening())  # type: ignore[assignment,method-assign]
    with pytest.raises(ConfigurationError, match=r"^Each\.on_start has a `yield`"):
        FlowStep(handler)
    handler.handle = None  # type: ignore[assignment,method-assign]
    handler.on_start = lambda: None  # type: ignore[method-assign]
    with refused("Each.handle is not callable, got None"):
        Flow(handler)


async def is_wanted(task: Any) -> bool:
    return False


def test_a_coroutine_function_as_condition() -> None:
    words = "but it is called as an ordinary function, so it would be true for every task; write `def`"
    for condition in (is_wanted, functools.partial(is_wanted)):
        with refused(f"handle_condition of the step with Each is declared with `async def`, {words}"):
            FlowStep(Each(), handle_condition=condition)


class Generator(BaseTaskHandler):
    """Yields in turns."""

    def handle(self, task: Number) -> Iterator[int]:
        yield task.value


class Coroutine(BaseTaskHandler):
    """Runs in an event loop."""

    async def handle(self, *tasks: Number) -> None: ...


class AsyncGenerator(BaseTaskHandler):
    """Yields in an event loop."""

    async def handle(self, task: Number) -> AsyncIterator[int]:
        yield task.value


OF_A_BATCH = (
    "has a `yield`, which needs batch_size=1, got 4: of a batch it would not be known to which task a value belongs; "
    "send its items with task.emit(item)"
)
BY_ITSELF = "its calls run side by side anyway, up to `concurrency` of them"


@pytest.mark.parametrize(
    ("handler", "options", "words"),
    [
        (Generator, {"batch_size": 4}, f"Generator.handle {OF_A_BATCH}"),
        (AsyncGenerator, {"batch_size": 4}, f"AsyncGenerator.handle {OF_A_BATCH}"),
        (
            Generator,
            {"continuous": True},
            "continuous=True needs a plain `def handle(self, *tasks)` with self.rounds(tasks), and Generator.handle "
            f"has a `yield`: {BY_ITSELF}",
        ),
        (
            Coroutine,
            {"continuous": True, "batch_size": 8},
            "continuous=True needs a plain `def handle(self, *tasks)` with self.rounds(tasks), and Coroutine.handle is "
            f"declared with `async def`: {BY_ITSELF}",
        ),
        (
            Each,
            {"concurrency": 4},
            "concurrency=4 needs a generator or `async def`, and Each.handle is neither: a worker makes one of its "
            "calls after the other; use nprocs",
        ),
        (
            Each,
            {"concurrency": 4, "continuous": True, "batch_size": 8},
            "concurrency=4 needs a generator or `async def`, and Each.handle is neither: batch_size says how many "
            "tasks a continuous call has at once",
        ),
        (
            Coroutine,
            {"busy_poll": 0.001},
            "busy_poll is not for Coroutine.handle, which is declared with `async def`: its event loop sleeps until "
            "there is something to do",
        ),
        (Coroutine, {"concurrency": 0}, "the step with Coroutine needs concurrency >= 1, got 0"),
    ],
)
def test_an_option_that_the_form_of_a_handler_cannot_have(handler: Any, options: Any, words: str) -> None:
    with refused(words):
        FlowStep(handler(), **options)


@pytest.mark.parametrize(
    ("handler", "options", "places"),
    [
        (Each, {"concurrency": 1}, 0),
        (Each, {"continuous": True, "batch_size": 8}, 8),
        (Generator, {}, 1),
        (Generator, {"concurrency": 32}, 32),
        (Coroutine, {}, 100),
        (Coroutine, {"batch_size": 4, "batch_timeout": "auto", "concurrency": 5}, 5),
        (AsyncGenerator, {}, 100),
    ],
)
def test_how_many_calls_a_worker_has_under_way(handler: Any, options: Any, places: int) -> None:
    assert FlowStep(handler(), **options).places == places


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


async def test_what_handle_returns_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Flow(FlowStep(handlers.Returning(), batch_size=2))) as flow:
        for value in range(3):
            assert (await flow.process(Number(value))).value == value + 1
        (pid,) = pids(flow)
    said = f"step1_Returning (pid {pid}): Returning.handle returned a list, which is ignored; set results as attributes"
    assert caplog.messages == [f"{said} of the tasks"]


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (handlers.HiddenCoroutine(), "coroutine"),
        (handlers.HiddenGenerator(), "generator"),
        (handlers.HiddenAsyncGenerator(), "async_generator"),
    ],
)
async def test_a_coroutine_that_is_returned_fails_the_task(
    handler: BaseTaskHandler, kind: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """It is not taken for an answer, and the worker goes on."""
    async with running(Flow(handler)) as flow:
        for _ in range(2):
            failure = await outcome(flow.process(Number()))
            assert isinstance(failure, ConfigurationError)
            assert str(failure) == (
                f"{type(handler).__name__}.handle returned a {kind}, so nothing of it has run: it is an ordinary "
                "function, perhaps because of a decorator; let it do its work before it returns, or declare it as what "
                "it returns"
            )
    assert capfd.readouterr().err == ""
    assert not recwarn.list  # of the worker, that it was never awaited


async def test_a_coroutine_that_a_decorated_start_returns_is_awaited() -> None:
    flow = Flow(handlers.HiddenStart())
    with pytest.raises(StartError) as raised:
        await flow.start_async()
    assert str(raised.value.__cause__) == "it was awaited"
