"""Answers the tasks of a flow with a function of the test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..call import Callee, handler_for
from ..engine.options import EngineOptions
from ..flow import Flow
from ..handler import BaseTaskHandler
from ..model_call import ModelCall
from ..model_pool import ModelPool
from ..step import FlowStep
from ..worker_function import InWorkers, WorkerFunction, flow_of
from .inline import InlineEngine, build_inline
from .substitute import Substitute

T = TypeVar("T")

_PLACES = 10_000
"""Calls of the function that run side by side."""

_END = object()


def stub(flow: Flow | InWorkers, function: Callable[..., Any]) -> Substitute:
    """Answer the tasks of a flow with a function, for tests of endpoints: no handler runs, and no process starts.

        def answer(task: Scan) -> None:
            task.lines = ["first", "second"]

        with stub(flow, answer):
            async with client(app) as http:
                response = await http.post("/ocr", content=picture)

    The function may be ``async def``; it may raise, and fail a task with ``task.fail``. With a ``yield`` in it, its
    values are the items of a stream. It runs in the event loop that drives the flow, so it shares events with the test
    and must not block. It gets a copy of the task, as a handler does, and the fields that it sets travel back.

    In place of a function of `in_worker` the function gets the arguments of each call and returns the result:
    ``stub(stars, lambda text: 5)``. In place of a `ModelPool` it gets the name of the model and the called function
    before them: ``stub(pool, lambda model, function, text: 0.5)``.

    Everything else is as with a flow that runs: uploads, timeouts, callers that leave, statistics and probes. The
    conditions of the steps are not evaluated.

    Args:
        flow: The flow, the function of `in_worker`, or the pool; it must not run yet.
        function: Called with each task, or with the arguments of each call.

    Returns:
        A context manager, for ``with`` and ``async with``, as that of `fastapi_aqueduct.testing.inline`.
    """
    if isinstance(flow, WorkerFunction):
        function = handler_for(Callee(function, None), is_batched=False).handle
    elif isinstance(flow, ModelPool):
        function = partial(_call_with_model, function)
    return Substitute(flow_of(flow), lambda options: _build(options, function))


def _build(options: EngineOptions, function: Callable[[Any], Any]) -> InlineEngine:
    yields = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    handler: _Bridge = _Streaming(function) if yields else _Answering(function)
    (name, _), *others = options.steps
    steps = [(name, FlowStep(handler, concurrency=_PLACES))]
    steps += [(name, FlowStep(_Unused(), _never)) for name, _ in others]
    engine = handler.engine = build_inline(replace(options, steps=steps, shape=()))
    return engine


async def _call_with_model(function: Callable[..., Any], call: ModelCall) -> None:
    model, called, _ = call.take_function()
    args, kwargs = call.take_arguments()
    result = function(model, called, *args, **kwargs)
    call.result = await result if inspect.isawaitable(result) else result


class _Bridge(BaseTaskHandler):
    """Runs a function in the event loop that drives the flow, and not in that of the worker.

    Args:
        function: The function.
    """

    engine: InlineEngine

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def _there(self, call: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        loop = self.engine.loop
        assert loop is not None
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))


class _Answering(_Bridge):
    """Answers each task with a function."""

    async def handle(self, task: Any) -> Any:
        return await self._there(self._call(task))

    async def _call(self, task: Any) -> Any:
        value = self._function(task)
        return await value if inspect.isawaitable(value) else value


class _Streaming(_Bridge):
    """Streams what a function yields for each task."""

    async def handle(self, task: Any) -> AsyncIterator[Any]:
        items = self._function(task)
        try:
            while (item := await self._there(_next(items))) is not _END:
                yield item
        finally:
            await self._there(_close(items))


async def _next(items: Any) -> Any:
    return await anext(items, _END) if hasattr(items, "__anext__") else next(items, _END)


async def _close(items: Any) -> None:
    if hasattr(items, "aclose"):
        await items.aclose()
    else:
        items.close()


class _Unused(BaseTaskHandler):
    """Stands for a further step, which no task visits."""

    def handle(self, *tasks: Any) -> None:
        """Is never called."""


def _never(task: Any) -> bool:
    return False
