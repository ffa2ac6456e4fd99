"""Gives a flow another engine for the time of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType

from ..engine.declaration import check_route
from ..engine.interface import Engine
from ..engine.loops.event_loop import in_event_loop
from ..engine.options import EngineOptions
from ..engine.shape import restrict
from ..flow import Flow


class Substitute:
    """A context in which a flow has another engine.

    ``with``: what starts the flow inside the context, such as the lifespan of its application, starts it with this
    engine. ``async with``: the context starts the flow itself, and stops it at its end.

    Args:
        flow: The flow, which must not run yet.
        build: Makes the engine.
        kept: Objects whose attributes are restored at the end.
        records: Whether the recorder of the flow records tasks that fail.
    """

    def __init__(
        self,
        flow: Flow,
        build: Callable[[EngineOptions], Engine],
        kept: Iterable[object] = (),
        records: bool = True,
    ) -> None:
        self._flow = flow
        self._build = build
        self._kept = kept
        self._records = records
        self._stack = ExitStack()

    def __enter__(self) -> Flow:
        """Give the flow its engine.

        Raises:
            NotRunningError: The flow is not stopped.
        """
        self._stack.enter_context(self._flow._lifecycle.built_by(self._build))
        self._stack.enter_context(_unchanged(self._kept))
        if not self._records:
            self._stack.enter_context(_without_recorder(self._flow))
        return self._flow

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not in_event_loop():  # `flow.start()` in a test without an event loop
            asyncio.run(self._flow.stop(graceful=exc is None))
        self._stack.close()

    async def __aenter__(self) -> Flow:
        """Start the flow with its engine.

        Raises:
            NotRunningError: The flow is not stopped.
            StartError: `on_start` of a handler has failed.
        """
        self.__enter__()
        try:
            await self._flow.start_async()
        except BaseException:
            self._stack.close()
            raise
        return self._flow

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._flow.stop(graceful=exc is None)
        finally:
            self._stack.close()


def step_choice(flow: Flow, steps: Collection[str] | None) -> Callable[[EngineOptions], EngineOptions]:
    """Return a function that leaves some steps out of what a flow declares; groups stay groups.

    Args:
        flow: The flow.
        steps: The names of those that stay; None: all, as they are declared.

    Raises:
        UnknownStep: The flow has no such step.
        ConfigurationError: These steps cannot follow each other.
    """
    if steps is None:
        return lambda options: options
    positions = {flow.steps[name].position for name in steps}
    names = [name for position, name in enumerate(flow.steps) if position in positions]
    shape = restrict(flow.shape, names)

    def choose(options: EngineOptions) -> EngineOptions:
        chosen = [(name, step) for name, step in options.steps if name in names]
        check_route(chosen, shape)
        return replace(options, steps=chosen, shape=shape)

    return choose


@contextmanager
def _unchanged(objects: Iterable[object]) -> Iterator[None]:
    before = [(vars(thing), dict(vars(thing))) for thing in objects]
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.clear()
            attributes.update(values)


@contextmanager
def _without_recorder(flow: Flow) -> Iterator[None]:
    before, flow.recorder = flow.recorder, None
    try:
        yield
    finally:
        flow.recorder = before
