"""Spans of OpenTelemetry for the uploads and tasks of a flow.

The page "Metrics and traces" lists names and attributes. All spans of a task have the same parent, the span in which it
was sent, usually that of the request. The API process makes them, so workers need no SDK. A wait in a queue becomes a
span when it has ended. The span of a step begins when the task goes to a worker, because its id travels with the task:
spans that a handler makes are its children.

A task is traced if the present span is recorded. If it is not, the trace context travels nevertheless: then spans of a
handler are not recorded either, and do not become roots of traces of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, Span, StatusCode

from ..engine.tracer import TaskSpans
from ..logger import log

_FLOW = "aqueduct.flow"
_STEP = "aqueduct.step"
_TASK = "aqueduct.task_id"
_WORKER = "aqueduct.worker_pid"
_BATCH_SIZE = "aqueduct.batch_size"
_HANDLE_TIME = "aqueduct.handle_time"
_RETRY = "aqueduct.retry"
_ITEMS = "aqueduct.items"
_OUTCOME = "aqueduct.outcome"
_REASON = "aqueduct.reason"

_NO_UPLOAD = "the span of an upload cannot be made"


class SpanMaker:
    """Makes the spans of a flow.

    Args:
        flow: Name of the flow.
        provider: Makes the tracer; None: the global provider.
    """

    def __init__(self, flow: str, provider: Any) -> None:
        self._flow = flow
        self._tracer = trace.get_tracer("fastapi_aqueduct", version("fastapi-aqueduct"), provider)

    def begin(self) -> TaskSpans | None:
        """Return the spans of a task that is sent in the present context; None if that has no trace."""
        context = get_current()
        if not context:  # no SDK is set up; asking for the current span would take three times as long
            return None
        if trace.get_current_span(context).is_recording():
            # One difference of the clocks for all spans of a task, so that none ends before it begins.
            return RecordedSpans(self, context, time.time_ns() - time.monotonic_ns())
        trace_context = pack_context(context)
        return PassedContext(trace_context) if trace_context else None

    def start(self, name: str, attributes: dict[str, Any], context: Context, **options: Any) -> Span:
        """Start a span.

        Args:
            name: Its name.
            attributes: Its attributes, beside the name of the flow.
            context: The trace context with its parent.
            **options: Of ``Tracer.start_span``.
        """
        return self._tracer.start_span(name, context, attributes={_FLOW: self._flow, **attributes}, **options)

    def upload(self, size: int | None) -> AbstractContextManager[None] | None:
        """Return a context that makes the span of an upload; None if the present span is not recorded."""
        context = get_current()
        if not context or not trace.get_current_span(context).is_recording():
            return None
        return self._upload(context, {} if size is None else {"http.request.body.size": size})

    def note_refusal(self, reason: str, error: Exception) -> None:
        """Add an event to the present span, if that is recorded."""
        attributes = {_FLOW: self._flow, _REASON: reason, "exception.message": str(error)}
        with _logged("a refusal cannot be noted on a span"):
            trace.get_current_span().add_event("aqueduct.refusal", attributes)

    @contextmanager
    def _upload(self, context: Context, attributes: dict[str, Any]) -> Iterator[None]:
        span: Span = trace.INVALID_SPAN
        with _logged(_NO_UPLOAD):
            span = self.start(f"upload {self._flow}", attributes, context)
        try:
            yield
        except Exception as exc:
            with _logged(_NO_UPLOAD):
                note_error(span, exc)
            raise
        finally:
            with _logged(_NO_UPLOAD):
                span.end()


class RecordedSpans:
    """The spans of a task; see `TaskSpans`.

    Args:
        maker: Makes them.
        context: The trace context with their parent.
        epoch: Nanoseconds since 1970 at the beginning of ``time.monotonic``.
    """

    is_recorded = True

    def __init__(self, maker: SpanMaker, context: Context, epoch: int) -> None:
        self._maker = maker
        self._context = context
        self._epoch = epoch
        self._span: Span | None = None  # of the step
        self._answered_at: int | None = None
        self._lost_at: int | None = None
        self._deaths = 0
        self._items = 0
        self._first_item_at = 0
        self._branches: dict[str, RecordedSpans] = {}

    @property
    def parent(self) -> bytes:
        """The trace context with their parent, as it travels."""
        return pack_context(self._context)

    @property
    def link(self) -> Link | None:
        """Refers to the span of the step."""
        return None if self._span is None else Link(self._span.get_span_context())

    def send(self, task: int, step: str, pid: int, waiting_since: float, now: float, first: Any) -> bytes:
        """End the wait in a queue, and begin the span of a step."""
        sent_at = self._wall_time(now)
        self._end_branches()
        self._end_step(next_at=sent_at)
        self._queue(step, waiting_since).end(sent_at)
        attributes = {_STEP: step, _TASK: task, _WORKER: pid}
        if self._deaths:
            attributes[_RETRY] = self._deaths
        link = first.link if isinstance(first, RecordedSpans) else None
        links = None if link is None else [link]
        self._span = self._maker.start(f"step {step}", attributes, self._context, start_time=sent_at, links=links)
        return pack_context(trace.set_span_in_context(self._span, self._context))

    def answer(self, size: int, duration: float, now: float) -> None:
        """Note the answer of the worker. The span ends when it is known what the answer was."""
        if self._span is not None:
            self._answered_at = self._wall_time(now)
            self._span.set_attributes({_BATCH_SIZE: size, _HANDLE_TIME: duration})
        self._deaths = 0

    def lose(self, error: Exception) -> None:
        """End the span of a step whose worker has died."""
        self._lost_at = self._wall_time(time.monotonic())
        self._deaths += 1
        if self._span is not None:
            note_error(self._span, error)
            self._end_step(self._lost_at)

    def branch(self, name: str) -> RecordedSpans:
        """Return the spans of a branch; that of the step before the group ends."""
        self._end_step()
        if name not in self._branches:
            self._branches[name] = RecordedSpans(self._maker, self._context, self._epoch)
        return self._branches[name]

    def note_item(self) -> None:
        """Note an item of a stream. The step that it is of may have no span yet; see `ClientSpans`."""
        self._items += 1
        if self._items == 1:
            self._first_item_at = self._wall_time(time.monotonic())

    def end(self, step: str, waiting_since: float | None, outcome: str, error: BaseException | None) -> None:
        """End the spans that are open."""
        if outcome == "completed":
            for branch in self._branches.values():
                branch.end(step, None, outcome, None)
        self._end_branches()
        if waiting_since is not None:
            self._end_step()
            self._span = self._queue(step, waiting_since)
        if self._span is not None:
            self._span.set_attribute(_OUTCOME, outcome)
            if error is not None:
                note_error(self._span, error)
            self._end_step()

    def _end_branches(self) -> None:
        """End the spans of branches that have been joined."""
        for branch in self._branches.values():
            branch._end_branches()
            branch._end_step()
        self._branches.clear()

    def _queue(self, step: str, waiting_since: float) -> Span:
        """Start the span of a wait in a queue, which has ended."""
        began_at = self._lost_at or self._wall_time(waiting_since)
        self._lost_at = None
        return self._maker.start(f"queue {step}", {_STEP: step}, self._context, start_time=began_at)

    def _wall_time(self, at: float) -> int:
        """Convert a time on the clock of ``time.monotonic`` to nanoseconds since 1970, as spans have them."""
        return self._epoch + int(at * 1e9)

    def _end_step(self, at: int | None = None, next_at: int | None = None) -> None:
        span, self._span = self._span, None
        if span is not None:
            if self._items and (next_at is None or self._first_item_at <= next_at):
                span.set_attribute(_ITEMS, self._items)
                span.add_event("first item", timestamp=self._first_item_at)
                self._items = 0
            span.end(at or self._answered_at or self._wall_time(time.monotonic()))
        self._answered_at = None


class PassedContext:
    """The context of a trace that is not recorded: it travels, and there are no spans; see `TaskSpans`.

    Args:
        trace_context: The context as it travels.
    """

    is_recorded = False

    def __init__(self, trace_context: bytes) -> None:
        self._trace_context = trace_context

    @property
    def parent(self) -> bytes:
        """The context."""
        return self._trace_context

    def send(self, task: int, step: str, pid: int, waiting_since: float, now: float, first: Any) -> bytes:
        """Return the context."""
        return self._trace_context

    def answer(self, size: int, duration: float, now: float) -> None:
        """Do nothing."""

    def lose(self, error: Exception) -> None:
        """Do nothing."""

    def branch(self, name: str) -> PassedContext:
        """Return the same."""
        return self

    def note_item(self) -> None:
        """Do nothing."""

    def end(self, step: str, waiting_since: float | None, outcome: str, error: BaseException | None) -> None:
        """Do nothing."""


@contextmanager
def _logged(message: str) -> Iterator[None]:
    """Log what a sampler or a processor of spans raises: a defect of tracing must not fail a request."""
    try:
        yield
    except Exception:
        log.exception("%s", message)


def pack_context(context: Context) -> bytes:
    """Return what the propagators of the process make of a context: by default ``traceparent`` and ``baggage``."""
    headers: dict[str, str] = {}
    propagate.inject(headers, context)
    return json.dumps(headers).encode() if headers else b""


def note_error(span: Span, error: BaseException) -> None:
    """Note the error with which a span ends; a cancellation is none."""
    if not isinstance(error, Exception):
        return
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.record_exception(error)
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, f"{kind.__name__}: {error}")
