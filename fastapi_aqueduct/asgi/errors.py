"""The HTTP answers to exceptions; the tree of all errors is in ``exceptions.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from ..exceptions import (
    AqueductError,
    HandlerTimeout,
    IdempotencyConflict,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    NotRunningError,
    Overloaded,
    StoreError,
    StoreFull,
    TaskTimeout,
    TaskTooLarge,
    TenantOverShare,
    WorkerDied,
    reason_of,
)
from ..logger import log
from .settings import refusal_log_of
from .traceback import chain, untangle


class BodyError(AqueductError):
    """The body of a request cannot be used.

    Attributes:
        headers: Headers of the answer.
    """

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}


class BodyTooLarge(BodyError):
    """The body is larger than the endpoint allows (413): raise ``max_body_size``, or send less."""


class BodyTooSlow(BodyError):
    """The client sent nothing for too long, or less than the least rate (408); see `UploadLimits`."""


class UnsupportedBody(BodyError):
    """The body has a type or a coding that the endpoint does not accept (415): see ``media_type``, ``accept_gzip``."""


class BodyLengthMismatch(BodyError):
    """The body is shorter or longer than its Content-Length says (400)."""


class MalformedBody(BodyError):
    """The body is not what its Content-Type or Content-Encoding announces (400)."""


class Answer(NamedTuple):
    """The HTTP answer to an exception.

    Attributes:
        status: The HTTP status.
        detail: The text in the body; None: that of the exception, which only describes the request.
        retry_after: Whether the answer has a header Retry-After.
    """

    status: int
    detail: str | None
    retry_after: bool = False


BUSY = "The service is busy; try again later."

ANSWERS: dict[type[Exception], Answer] = {
    BodyTooLarge: Answer(413, None),
    BodyTooSlow: Answer(408, None),
    UnsupportedBody: Answer(415, None),
    BodyError: Answer(400, None),
    # Only logs show this one; the status is that of nginx for it.
    ClientDisconnect: Answer(499, "The client closed the connection."),
    TaskTooLarge: Answer(413, "The request is larger than the service can process."),
    TenantOverShare: Answer(429, "Too many of your requests are waiting; try again later.", retry_after=True),
    Overloaded: Answer(503, BUSY, retry_after=True),
    NotRunningError: Answer(503, BUSY, retry_after=True),
    WorkerDied: Answer(503, "The process that worked on the request has ended."),
    TaskTimeout: Answer(504, "The request was not finished in time."),
    HandlerTimeout: Answer(504, "The request was not finished in time."),
    JobNotFound: Answer(404, "There is no such job."),
    # A conflict with the state of the job: https://www.rfc-editor.org/rfc/rfc9110.html#name-409-conflict
    JobNotFinished: Answer(409, "The job has not ended yet.", retry_after=True),
    JobFailed: Answer(409, "The job has failed."),
    JobCancelled: Answer(409, "The job was cancelled."),
    IdempotencyConflict: Answer(409, "Another request has used this Idempotency-Key."),
    StoreFull: Answer(507, "The service has no space for more jobs.", retry_after=True),
    StoreError: Answer(503, BUSY, retry_after=True),
}
"""The answers. Other exceptions, above all those of handlers, are left to the application."""


@contextmanager
def http_errors(scope: Scope) -> Iterator[None]:
    """Turn the package's exceptions into HTTP answers.

    Exceptions for which the application has a handler are left to it. So are those of a flow's handlers: the
    application maps them to an answer, or the server logs them, with the worker's traceback as the cause.

    Args:
        scope: Of the request. On a WebSocket the exceptions stay as they are: there is no HTTP answer.
    """
    try:
        yield
    except Exception as exc:
        raise_http_error(scope, exc)


def raise_http_error(scope: Scope, exc: Exception) -> NoReturn:
    """Raise the HTTP answer to an exception, or the exception itself where there is none."""
    answer = http_error(scope, exc)
    try:
        if answer is exc:
            untangle(exc)
            raise exc
        raise answer from exc
    finally:
        # They refer to this frame: the cycle would keep the request, and under granian the connection, until garbage is
        # collected.
        del answer, exc


def http_error(scope: Scope, exc: Exception) -> Exception:
    """Return the HTTP answer to an exception, or the exception itself where there is none."""
    answer = find_answer(exc)
    if answer is None or scope["type"] != "http" or _is_handled_by_application(scope, exc):
        return exc
    _log_answer(scope, exc, answer)
    _forget_frames(exc)
    headers = dict(exc.headers) if isinstance(exc, BodyError) else {}
    if answer.retry_after:
        headers["Retry-After"] = _retry_after(exc)
    return HTTPException(answer.status, answer.detail or str(exc), headers)


def refusal(scope: Scope, exc: Exception) -> HTTPException:
    """Return the HTTP answer to an exception that is raised while a body is read.

    FastAPI answers 400 to any other exception there. So an exception for which the application has a handler is
    returned as an object of both classes.
    """
    answer = http_error(scope, exc)
    if isinstance(answer, HTTPException):
        return answer
    known = find_answer(exc)
    assert known is not None
    kind: Any = type(exc)
    both: type[HTTPException] = _joined(kind)
    joined = both.__new__(both, *exc.args)
    joined.__dict__ |= exc.__dict__
    HTTPException.__init__(joined, known.status, known.detail or str(exc), getattr(exc, "headers", None))
    joined.args = exc.args
    return joined


@cache
def _joined(kind: Any) -> type[HTTPException]:
    namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__str__": Exception.__str__}
    return type(kind.__name__, (kind, HTTPException), namespace)


def find_answer(exc: Exception) -> Answer | None:
    """Return the answer to an exception, as `ANSWERS` has it; None for an exception that is not there."""
    return next((ANSWERS[cls] for cls in type(exc).__mro__ if cls in ANSWERS), None)


def missing_upload(name: str) -> dict[str, Any]:
    """Return the entry of FastAPI's 422 for a required upload that did not come."""
    return {"type": "missing", "loc": ("body", name), "msg": "Field required", "input": None}


def refused_upload(place: tuple[str | int, ...], reason: str) -> dict[str, Any]:
    """Return the entry of FastAPI's 422 for an upload that cannot be used.

    Args:
        place: Name of the upload, and the index of the file where there are several.
        reason: What is wrong.
    """
    return {"type": "value_error", "loc": ("body", *place), "msg": f"Value error, {reason}", "input": None}


def _forget_frames(exc: BaseException) -> None:
    # The frames hold the task and its blocks of shared memory. The answer keeps its cause until it is sent, which
    # hypercorn never ends when the client of an HTTP/2 connection has gone. And an exit stack, such as FastAPI's around
    # dependencies, makes a cycle of itself and the traceback of an exception that one of its contexts has replaced. It
    # keeps the first entry of the traceback, so the entries are unlinked.
    for found in chain(exc):
        entry, found.__traceback__ = found.__traceback__, None
        while entry is not None:
            following, entry.tb_next = entry.tb_next, None
            entry = following


def _retry_after(exc: Exception) -> str:
    seconds = exc.retry_after if isinstance(exc, Overloaded) else 1.0
    return str(max(1, math.ceil(seconds)))


def _is_handled_by_application(scope: Scope, exc: Exception) -> bool:
    # Starlette looks here when an exception leaves an endpoint.
    handlers, _ = scope.get("starlette.exception_handlers", ({}, {}))
    return any(cls in handlers for cls in type(exc).__mro__)


_WARNED = {408, 413, 429, 499, 503, 504, 507}
"""Statuses that are logged as warnings, which an operator sees also without a configuration of logging."""


def _log_answer(scope: Scope, exc: Exception, answer: Answer) -> None:
    line = f"{scope['method']} {scope['path']}: {answer.status}: {str(exc) or answer.detail}"
    if answer.status in _WARNED:
        # Under overload there are many. Metrics count them; a line for each would add to the load.
        route = f"{scope['method']} {getattr(scope.get('route'), 'path', '')}"
        refusal_log_of(scope).note(route, reason_of(exc), line)
    else:
        log.info("%s", line)
