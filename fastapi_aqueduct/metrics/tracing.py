"""Tracing: makes the spans of a flow, if the program uses OpenTelemetry."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from ..engine.tracer import TaskSpans

if TYPE_CHECKING:
    from .spans import SpanMaker

_NO_SPAN = nullcontext()


class TracerProvider(Protocol):
    """A ``TracerProvider`` of OpenTelemetry."""

    def get_tracer(self, instrumenting_module_name: str, instrumenting_library_version: str | None = None) -> Any:
        """Return the tracer of a library."""


class Tracing:
    """Makes the spans of a flow.

    It does not import OpenTelemetry: as long as the program has not done that, no span can be current.

    Args:
        flow: Name of the flow.
        tracing: Whether there are spans; or the provider that makes them, in place of the global one.
    """

    def __init__(self, flow: str, tracing: bool | TracerProvider) -> None:
        self._flow = flow
        self._tracing = tracing
        self._maker: SpanMaker | None = None

    def begin(self) -> TaskSpans | None:
        """Return the spans of a task that is sent in the present context; None if that has no trace."""
        maker = self._maker or self._find_maker()
        return None if maker is None else maker.begin()

    def upload(self, size: int | None) -> AbstractContextManager[object]:
        """Return a context that makes the span of an upload.

        Args:
            size: Bytes of the body; None if the client has not announced it.
        """
        maker = self._maker or self._find_maker()
        return _NO_SPAN if maker is None else maker.upload(size) or _NO_SPAN

    def note_refusal(self, reason: str, error: Exception) -> None:
        """Add an event to the present span, usually that of the request: a call or an upload is refused.

        Args:
            reason: One word for it, as in metrics.
            error: The error with which it ends.
        """
        maker = self._maker or self._find_maker()
        if maker is not None:
            maker.note_refusal(reason, error)

    def _find_maker(self) -> SpanMaker | None:
        if not self._tracing or "opentelemetry.trace" not in sys.modules:
            return None
        from .spans import SpanMaker

        self._maker = SpanMaker(self._flow, None if self._tracing is True else self._tracing)
        return self._maker
