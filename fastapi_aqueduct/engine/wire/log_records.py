"""Log records as bytes: how they travel from a worker to the API process.

A record arrives with its message and arguments apart, so that error trackers group by the message. Values of built-in
types, and of the standard library's types for numbers, times and paths, arrive as themselves: to read them imports no
module of the user's. Exceptions arrive as those of handlers do, and any other value as its text.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import struct
import sys
from collections.abc import Mapping, Sequence
from types import BuiltinFunctionType
from typing import Any, NamedTuple

from .bounded_stream import BoundedStream
from .exception_pickle import shorten
from .failures import decode_logged, decode_text, encode_error
from .frames import ProtocolError, pack_offsets, unpack_offsets

MAX_RECORD = 64 * 1024
"""Maximum bytes of a record without its exception; a longer one is shortened."""

MAX_ERROR = 256 * 1024
"""Maximum bytes of the exception of a record; of a larger one only the text arrives."""

MAX_TEXT = 10_000
"""Maximum characters of the message of a record that is shortened."""

MAX_NUMBERS = 64
"""Tasks of a call for a batch by which its record finds an API process."""

_MAX_VALUE = 1_000

_COUNT = struct.Struct("<B")

_ATOMS = frozenset({str, int, float, bool, type(None)})
_MESSAGES = frozenset({str, dict, list, tuple})
_BASES: tuple[Any, ...] = (str, int, float, dict, list, tuple)
"""Values of subclasses arrive as these types: enumerations, named tuples, numpy's 64-bit floats."""

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime"}
_SIZE = len(logging.LogRecord("", 0, "", 0, "", (), None).__dict__)
_MODULES = frozenset({"datetime", "decimal", "fractions", "ipaddress", "pathlib", "pathlib._local", "uuid", "zoneinfo"})
"""Modules whose types arrive as themselves."""


class Warned(NamedTuple):
    """A warning, as ``warnings.showwarning`` gets it.

    Attributes:
        message: Its text.
        module: The module of its category.
        category: The name of its category.
        filename: The file of the line that caused it.
        lineno: The number of that line.
        line: The text of that line; None where it is in the file.
    """

    message: str
    module: str
    category: str
    filename: str
    lineno: int
    line: str | None


class Arrived(NamedTuple):
    """A record that has arrived.

    Attributes:
        record: The record.
        context: The values of context variables by their names, if they are of simple types.
        warning: The warning that it is about.
    """

    record: logging.LogRecord
    context: dict[str, Any]
    warning: Warned | None


def address_record(numbers: Sequence[int], record: bytes) -> bytes:
    """Return the payload of a frame of kind LOG.

    Args:
        numbers: The numbers on the wire of the tasks that the record belongs to; by these it finds its API process.
        record: From `pack_record`.
    """
    numbers = numbers[:MAX_NUMBERS]
    return _COUNT.pack(len(numbers)) + pack_offsets(numbers) + record


def split_record(payload: bytes) -> tuple[list[int], bytes]:
    """Return the numbers of the tasks that a record belongs to, and the packed record, which is not read.

    Args:
        payload: The payload of a frame of kind LOG.

    Raises:
        ProtocolError: It is cut off.
    """
    if len(payload) < _COUNT.size:
        raise ProtocolError("a log record is cut off")
    end = _COUNT.size + 8 * _COUNT.unpack_from(payload)[0]
    return list(unpack_offsets(payload[_COUNT.size : end])), payload[end:]


def pack_record(
    record: logging.LogRecord, task_id: str | None, context: Mapping[str, Any], warning: Warned | None = None
) -> bytes:
    """Return a record as bytes.

    Args:
        record: The record. A value in its ``extra`` takes precedence over one of the following of the same name.
        task_id: Its attribute of this name.
        context: The values of context variables by their names, which become attributes.
        warning: The warning that the record is about.
    """
    fields = record.__dict__
    extra = {"task_id": task_id, **context}
    if len(fields) > _SIZE:
        extra.update({name: value for name, value in fields.items() if name not in _STANDARD})
    simple = {name: value for name, value in context.items() if type(value) in _ATOMS} if context else None
    error, error_text = _pack_error(record)
    head = (
        *(record.name, record.levelno, record.levelname, record.pathname, record.lineno, record.funcName),
        *(record.created, record.msecs, record.thread, record.threadName, fields.get("taskName"), record.process),
        *(error, error_text, simple, warning and tuple(warning)),
    )
    try:
        stream = BoundedStream(MAX_RECORD)
        _Pickler(stream, 5).dump((head, *_message(record), record.stack_info, extra))
        return b"".join(stream.parts)
    except Exception:  # it is too large, or too deep
        stack = record.stack_info and shorten(record.stack_info, MAX_TEXT)
        texts = {str(name): shorten(_text(value), _MAX_VALUE) for name, value in list(extra.items())[:64]}
        return pickle.dumps((head, shorten(_formatted(record), MAX_TEXT), (), stack, texts), 5)


def unpack_record(payload: bytes) -> Arrived:
    """Read what `pack_record` has returned.

    Raises:
        ProtocolError: It is no record.
    """
    try:
        head, msg, args, stack_info, extra = pickle.loads(payload)
        name, level, level_name, path, line, function, created, msecs, *rest = head
        thread, thread_name, task_name, process, error, error_text, context, warning = rest
    except Exception as exc:
        raise ProtocolError(f"malformed log record: {exc}") from exc
    record = logging.getLogRecordFactory()(name, level, path, line, msg, (), None, function, stack_info)
    exc_info: Any = None
    if error:
        exception, error_text = decode_logged(error)
        exc_info = (type(exception), exception, exception.__traceback__)
    record.__dict__.update(
        args=args,
        levelname=level_name,
        created=created,
        msecs=msecs,
        thread=thread,
        threadName=thread_name,
        process=process,
        exc_info=exc_info,
        exc_text=error_text and error_text.rstrip("\n"),
        **extra,
    )
    if "taskName" in record.__dict__:
        record.taskName = task_name
    return Arrived(record, context or {}, warning and Warned(*warning))


def _pack_error(record: logging.LogRecord) -> tuple[bytes | None, str | None]:
    """Return the exception of a record, packed, or its text alone."""
    if not record.exc_info:
        return None, record.exc_text
    error = record.exc_info[1]
    if error is None:
        return None, "NoneType: None"  # as logging shows it: there was no exception
    body = encode_error(error)
    return (body, None) if len(body) <= MAX_ERROR else (None, decode_text(body))


def _message(record: logging.LogRecord) -> tuple[Any, Any]:
    """Return message and arguments as they travel: apart, unless that would change the text."""
    msg, args = record.msg, record.args
    if type(record) is logging.LogRecord:  # else its class may format in its own way
        if not args:
            if type(msg) is dict:
                msg = _with_exception(msg)
            return (msg if type(msg) in _MESSAGES else _formatted(record)), ()
        if type(msg) is str and type(args) is tuple:
            if _ATOMS.issuperset(map(type, args)):
                return msg, args
            texts: Any = tuple([value if type(value) in _ATOMS else _text(value) for value in args])
        elif type(msg) is str and type(args) is dict:
            texts = {name: value if type(value) in _ATOMS else _text(value) for name, value in args.items()}
        else:
            return _formatted(record), ()
        text = _formatted(record)
        with contextlib.suppress(Exception):
            if msg % texts == text:
                return msg, texts
        return text, ()
    return _formatted(record), ()


def _with_exception(event: dict[Any, Any]) -> dict[Any, Any]:
    """Put the exception itself into an event of structlog, whose formatter looks for it in the API process."""
    info = event.get("exc_info")
    if not info:
        return event
    error = info if isinstance(info, BaseException) else (info if isinstance(info, tuple) else sys.exc_info())[1]
    return {**event, "exc_info": error}


def _exception(body: bytes) -> Exception:
    return decode_logged(body)[0]


def _formatted(record: logging.LogRecord) -> str:
    try:
        return str(record.getMessage())
    except Exception as exc:
        return f"{_text(record.msg)} [its arguments do not fit: {type(exc).__name__}: {exc}]"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:
        return f"<{type(value).__qualname__} without a text: {type(exc).__name__}>"


class _Pickler(pickle.Pickler):
    """Pickles values, and replaces those that would import a module of the user's."""

    def reducer_override(self, value: Any) -> Any:
        kind = value if isinstance(value, type) else type(value)
        if kind.__module__ in _MODULES or isinstance(value, BuiltinFunctionType):
            return NotImplemented
        if value is logging.getLogger or value is _exception:
            return NotImplemented
        if isinstance(value, type):
            return NotImplemented if value.__module__ == "builtins" else _as_text(value)
        if isinstance(value, BaseException):
            return _exception, (encode_error(value),)
        if isinstance(value, logging.Logger):
            return logging.getLogger, (value.name,)
        for base in _BASES:
            if isinstance(value, base):
                return base, (base(value),)
        if kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            number = value.item()
            return (type(number), (number,)) if type(number) in _ATOMS else _as_text(value)
        return _as_text(value)


def _as_text(value: object) -> tuple[type[str], tuple[str]]:
    return str, (shorten(_text(value), _MAX_VALUE),)
