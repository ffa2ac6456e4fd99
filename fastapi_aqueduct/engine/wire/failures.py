"""Encodes exceptions of a worker for the API process.

An exception arrives with its type, text, arguments and fields, the exceptions that caused it, and the frames of its
traceback. It is a copy of limited size without references to shared memory, so a log record or an error tracker may
keep it.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback

from ...exceptions import HandlerError, WorkerTraceback
from .exception_pickle import (
    ExceptionPickler,
    Strategy,
    chain_of,
    make_stand_in,
    message_of,
    name_of,
    set_attribute,
    shorten,
)

MAX_TEXT = 100_000
"""Characters of the text of a traceback."""

_READ_ONLY = (
    "assignment destination is read-only",
    "array is read-only",  # an output, an array to sort, an array that Cython code writes
    "cannot set WRITEABLE flag to True of this array",
    "cannot modify read-only memory",
)
"""Messages of numpy and `memoryview` to code that writes into an input."""

_READ_ONLY_NOTE = (
    "Large fields of a task arrive read-only, since other processes use the same memory: copy the value before "
    "changing it, or call share_value() for the field before the task is processed."
)


def encode_error(exc: BaseException) -> bytes:
    """Pack an exception with its traceback.

    A `HandlerError` replaces an exception that takes more than 1 MiB, or cannot be rebuilt and would break its receiver
    (python/cpython#80041). It also replaces exceptions that would end or confuse the receiver, such as SystemExit and
    StopIteration.
    """
    _explain(exc)
    pickler = ExceptionPickler()
    if not isinstance(exc, Exception) or isinstance(exc, StopIteration | StopAsyncIteration):
        pickler.refuse(exc)
    is_itself = pickler.strategy_of(exc) is not Strategy.STAND_IN
    original = b""
    for has_links in (True, False):
        with contextlib.suppress(Exception):  # its causes are too many or too large: the text shows them
            original = pickler.pack(exc, has_links=has_links)
            break
    return pickle.dumps((original, is_itself, name_of(exc), message_of(exc), _text(exc)), 5)


def unreadable(flow: str, cause: Exception) -> HandlerError:
    """Return the error for a result that cannot be decoded in this process.

    Args:
        flow: Name of the flow.
        cause: The error of decoding it.
    """
    error = HandlerError(
        f"the result of flow {flow} could not be rebuilt here: {type(cause).__name__}: {cause}",
        type_name=type(cause).__qualname__,
        original=str(cause),
    )
    error.__cause__ = cause
    return error


def decode_error(body: bytes, where: str) -> Exception:
    """Unpack an exception of `encode_error`. The text of the worker's traceback is the last cause in its chain.

    Args:
        body: The packed exception.
        where: Flow, step and worker, for the message of a `HandlerError`.
    """
    original, is_itself, name, message, text = pickle.loads(body)
    exc: Exception | None = None
    with contextlib.suppress(Exception):  # its module may exist in the worker only, or its class may raise here
        rebuilt = pickle.loads(original)
        exc = rebuilt if isinstance(rebuilt, Exception) else None
    if exc is None or not is_itself:
        exc = exc or make_stand_in(name, message)
        exc.args = (f"{name} in {where}: {message}",)
    *_, last = chain_of(exc)
    set_attribute(last, "__cause__", WorkerTraceback(text))
    return exc


def _text(exc: BaseException) -> str:
    try:
        return shorten("".join(traceback.format_exception(exc)), MAX_TEXT)
    except Exception:  # its class may raise any error when its text or its notes are read
        return f"{name_of(exc)}: {message_of(exc)}\n"


def _explain(exc: BaseException) -> None:
    """Add a note to an error of code that writes into its inputs."""
    for link in chain_of(exc):
        if isinstance(link, ValueError | TypeError) and any(text in message_of(link) for text in _READ_ONLY):
            with contextlib.suppress(Exception):
                link.add_note(_READ_ONLY_NOTE)
