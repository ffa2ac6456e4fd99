"""PackedHandler: stands for a handler of the user in a process that does not have its code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from ...exceptions import UsageError
from ...handler import BaseTaskHandler, HandlerForm, form_of
from ..options import EngineOptions
from ..workers.starter import spec_maker


class PackedHandler(BaseTaskHandler):
    """Stands for a handler of the user in a process that does not have its code.

    Args:
        program: The pickled `Program` with the handler, which only workers open; empty where it is kept elsewhere.

    Attributes:
        program: As given.
    """

    def __init__(self, program: bytes = b"") -> None:
        self.program = program

    def handle(self, *tasks: Any, **_: Any) -> Any:
        raise _no_code()


class _Generator(PackedHandler):
    def handle(self, *tasks: Any, **_: Any) -> Iterator[object]:
        yield None
        raise _no_code()


class _Coroutine(PackedHandler):
    async def handle(self, *tasks: Any, **_: Any) -> None:
        raise _no_code()


class _AsyncGenerator(PackedHandler):
    async def handle(self, *tasks: Any, **_: Any) -> AsyncIterator[object]:
        yield None
        raise _no_code()


_CLASSES = {
    HandlerForm.PLAIN: PackedHandler,
    HandlerForm.GENERATOR: _Generator,
    HandlerForm.COROUTINE: _Coroutine,
    HandlerForm.ASYNC_GENERATOR: _AsyncGenerator,
}


def stand_in(handler: BaseTaskHandler, program: bytes = b"") -> PackedHandler:
    """Return a `PackedHandler` whose ``handle`` has the form of a handler's.

    Args:
        handler: The handler.
        program: As for `PackedHandler`.
    """
    return _CLASSES[form_of(handler)](program)


def pack_handler(options: EngineOptions, index: int, handler: BaseTaskHandler) -> PackedHandler:
    """Pack a handler that takes the place of another one. This may take long: call it in a thread.

    Args:
        options: What the flow declares.
        index: Index of the step.
        handler: The handler.

    Raises:
        ConfigurationError: It cannot be pickled, or cannot take the place of the one before.
    """
    name, step = options.steps[index]
    return stand_in(handler, spec_maker(options).pack(name, step.with_handler(handler)))


def _no_code() -> UsageError:
    return UsageError("a handler was called in the pipeline process, which has no code of handlers")
