"""Encodes exceptions of a worker for the API process.

An exception arrives with its type, text, arguments and fields, the exceptions that caused it, and the frames of its
traceback. It is a copy of limited size without references to shared memory, so a log record or an error tracker may
keep it.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import traceback
from typing import Any, NamedTuple

from ...exceptions import HandlerError, WorkerTraceback
from .exception_pickle import (
    ExceptionPickler,
    Forwarded,
    Strategy,
    chain_of,
    make_stand_in,
    message_of,
    name_of,
    set_attribute,
    shorten,
)
from .frames import ProtocolError

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


class ErrorText(NamedTuple):
    """A packed exception as text.

    Attributes:
        name: Name of its class, with its module unless it is built in.
        message: Its text.
        traceback: Its traceback.
    """

    name: str
    message: str
    traceback: str


_forwards = False


def forward_errors() -> None:
    """Import no code of the user to unpack exceptions, from now on in this process, which only passes them on.

    `decode_error` then returns an error that stands for an exception of a class of the user, and `encode_error` packs
    that as what it was.
    """
    global _forwards
    _forwards = True


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


def pack_failure(phase: str, exc: BaseException) -> bytes:
    """Return the payload of a frame of kind FAILED.

    Args:
        phase: What the worker did when it failed.
        exc: The exception.
    """
    return phase.encode() + b"\0" + encode_error(exc)


def unpack_failure(payload: bytes, where: str) -> tuple[str, Exception]:
    """Read the payload of a frame of kind FAILED; return the phase and the exception.

    Args:
        payload: The payload.
        where: Flow and step, for the message of a `HandlerError`.
    """
    phase, _, body = payload.partition(b"\0")
    return phase.decode(), decode_error(body, f"{phase.decode()} of {where}")


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

    Raises:
        ProtocolError: It is malformed.
    """
    original, is_itself, name, message, text = _unpack(body)
    exc = _rebuild(original)
    if _forwards and is_itself and exc is None:
        exc = Forwarded(body, where, name, message, decode_error)
    elif exc is None or not is_itself:
        exc = exc or make_stand_in(name, message)
        exc.args = (f"{name} in {where}: {message}",)
    *_, last = chain_of(exc)
    set_attribute(last, "__cause__", WorkerTraceback(text))
    return exc


def error_name(body: bytes) -> str:
    """Return the name of the class of an exception of `encode_error`, which is not rebuilt.

    Raises:
        ProtocolError: It is malformed.
    """
    _, _, name, _, _ = _unpack(body)
    return name.removeprefix("builtins.")


def error_summary(body: bytes) -> tuple[str, str]:
    """Return the name of the class of an exception of `encode_error`, which is not rebuilt, and its text.

    Raises:
        ProtocolError: It is malformed.
    """
    _, _, name, message, _ = _unpack(body)
    return name.removeprefix("builtins."), message


def decode_logged(body: bytes) -> tuple[Exception, str]:
    """Unpack an exception of `encode_error` that was logged, and the text of its traceback.

    Raises:
        ProtocolError: It is malformed.
    """
    original, _, name, message, text = _unpack(body)
    return _rebuild(original) or make_stand_in(name, message), text


def describe_error(body: bytes) -> ErrorText:
    """Return an exception of `encode_error` as text. It is not rebuilt.

    Raises:
        ProtocolError: It is malformed.
    """
    _, _, name, message, text = _unpack(body)
    return ErrorText(name.removeprefix("builtins."), message, text)


def decode_text(body: bytes) -> str:
    """Unpack only the text of the traceback of an exception of `encode_error`.

    Raises:
        ProtocolError: It is malformed.
    """
    *_, text = _unpack(body)
    return text


def _unpack(body: bytes) -> tuple[bytes, bool, str, str, str]:
    try:
        original, is_itself, name, message, text = pickle.loads(body)
    except Exception as exc:
        raise ProtocolError(f"malformed exception: {exc}") from exc
    if not isinstance(original, bytes) or not all(isinstance(part, str) for part in (name, message, text)):
        raise ProtocolError("an exception has parts of other types")
    return original, bool(is_itself), name, message, text


def _rebuild(original: bytes) -> Exception | None:
    with contextlib.suppress(Exception):  # its module may exist in the worker only, or its class may raise here
        rebuilt = _PlainUnpickler(io.BytesIO(original)).load() if _forwards else pickle.loads(original)
        return rebuilt if isinstance(rebuilt, Exception) else None
    return None


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles what consists of types of this package and of the standard library."""

    def find_class(self, module: str, name: str) -> Any:
        root = module.partition(".")[0]
        if root in sys.stdlib_module_names or root == _PACKAGE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is code of the user")


_PACKAGE = __name__.partition(".")[0]


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
                if _READ_ONLY_NOTE not in getattr(link, "__notes__", ()):  # it may be logged, then raised
                    link.add_note(_READ_ONLY_NOTE)
