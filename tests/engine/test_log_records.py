"""Log records as bytes: what of them arrives as itself, and what as text."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import pathlib
import pickle
import sys
import uuid
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct.engine.wire.frames import ProtocolError
from fastapi_aqueduct.engine.wire.log_records import MAX_ERROR, MAX_RECORD, Warned, pack_record, unpack_record


class Thing:
    """A value of a user's class."""

    def __str__(self) -> str:
        return "a thing"

    def __repr__(self) -> str:
        return "<Thing>"


class Mute:
    """A value without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Page(enum.IntEnum):
    """Integers by name."""

    FIRST = 1


class Braces(logging.LogRecord):
    """A record that formats in its own way."""

    def getMessage(self) -> str:
        return str(self.msg).format(*self.args or ())


Point = namedtuple("Point", "x y")


def make(msg: Any, *args: Any, kind: type[logging.LogRecord] = logging.LogRecord, **fields: Any) -> logging.LogRecord:
    """Make a record as a logger does."""
    exc_info = fields.pop("exc_info", None)
    stack = fields.pop("stack_info", None)
    record = kind("app.pages", logging.INFO, "/app/pages.py", 7, msg, args, exc_info, "read", stack)
    record.__dict__.update(fields)
    return record


def sent(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record that arrives."""
    return unpack_record(pack_record(record, "t-1", {})).record


@pytest.mark.parametrize(
    ("msg", "args", "arrived"),
    [
        ("plain 100%", (), ()),
        ("%s took %.1f ms for %d pages, %s", ("a.png", 1.5, 3, None), ("a.png", 1.5, 3, None)),
        ("%(name)s", ({"name": "a"},), {"name": "a"}),
        # as their text, if the message is the same then
        ("of %s", (Thing(),), ("a thing",)),
        ("of %(it)s and %(n)d", ({"it": Thing(), "n": 2},), {"it": "a thing", "n": 2}),
        ("%s", ([1, Thing()],), ("[1, <Thing>]",)),
    ],
)
def test_message_and_arguments_arrive_apart(msg: str, args: tuple[Any, ...], arrived: Any) -> None:
    record = sent(make(msg, *args))
    assert (record.msg, record.args) == (msg, arrived)
    assert record.getMessage() == make(msg, *args).getMessage()


@pytest.mark.parametrize(
    ("msg", "args", "text"),
    [
        ("%r is 100%%", (Thing(),), "<Thing> is 100%"),
        ("%.2f", (np.float32(1.5),), "1.50"),
        (Thing(), (), "a thing"),
        ("%d", (Thing(),), "%d [its arguments do not fit: TypeError: %d format: a real number is required, not Thing]"),
        ("%s", (Mute(),), "%s [its arguments do not fit: RuntimeError: no]"),
    ],
)
def test_what_cannot_travel_is_formatted_in_the_worker(msg: Any, args: tuple[Any, ...], text: str) -> None:
    record = sent(make(msg, *args))
    assert record.getMessage() == record.msg == text


def test_a_record_of_another_class_is_formatted_in_the_worker() -> None:
    assert sent(make("{} of {}", 1, 2, kind=Braces)).getMessage() == "1 of 2"


def test_all_that_a_formatter_may_show_arrives() -> None:
    record = make("text", stack_info="Stack (most recent call last):\n  ...")
    found = sent(record)
    for name in (
        *("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created", "msecs"),
        *("thread", "threadName", "process", "stack_info", "exc_info", "exc_text"),
    ):
        assert getattr(found, name) == getattr(record, name), name


def test_extra_attributes_arrive_as_themselves_where_that_imports_nothing_of_the_users() -> None:
    now = datetime.datetime.now(datetime.UTC)
    same: dict[str, Any] = {
        "number": 1,
        "nested": {"list": [1, 2.5, None], "set": {1}},
        "at": now,
        "price": decimal.Decimal("1.10"),
        "id": uuid.uuid4(),
        "path": pathlib.Path("/tmp/x"),
        "task_id": "the user's own",
    }
    changed: dict[str, tuple[Any, Any]] = {
        "thing": (Thing(), "a thing"),
        "inside": ([Thing()], ["a thing"]),
        "array": (np.zeros(3), "[0. 0. 0.]"),
        "score": (np.float32(0.5), 0.5),
        "score64": (np.float64(0.5), 0.5),
        "page": (Page.FIRST, 1),
        "point": (Point(1, 2), (1, 2)),
        "ordered": (OrderedDict(a=1), {"a": 1}),
        "cls": (Thing, str(Thing)),
        "mute": (Mute(), "<Mute without a text: RuntimeError>"),
    }
    record = sent(make("text", **same, **{name: value for name, (value, _) in changed.items()}))
    assert {name: getattr(record, name) for name in same} == same
    found = {name: getattr(record, name) for name in changed}
    assert found == {name: value for name, (_, value) in changed.items()}
    assert {type(value) for value in found.values()} <= {str, list, float, int, tuple, dict}


def test_an_event_of_structlog_arrives_with_its_exception() -> None:
    try:
        raise ValueError("torn")
    except ValueError as exc:
        by_flag = sent(make({"event": "read", "exc_info": True, "thing": Thing()}, _logger=logging.getLogger("a")))
        by_tuple = sent(make({"event": "read", "exc_info": sys.exc_info()}))
        by_value = sent(make({"event": "read", "exc_info": exc}))
    for record in (by_flag, by_tuple, by_value):
        event: Any = record.msg
        assert repr(event["exc_info"]) == "ValueError('torn')"
        assert event["exc_info"].__traceback__.tb_frame.f_code.co_filename == __file__
    assert by_flag.__dict__["_logger"] is logging.getLogger("a")


def test_an_exception_arrives_as_text_and_as_itself() -> None:
    try:
        try:
            raise KeyError("k")
        except KeyError as exc:
            raise ValueError("torn") from exc
    except ValueError:
        record = make("failed", exc_info=sys.exc_info())
    found = sent(record)
    assert found.exc_info is not None and found.exc_info[0] is ValueError
    error = found.exc_info[1]
    assert repr(error) == "ValueError('torn')"
    assert error is not None and repr(error.__cause__) == "KeyError('k')"
    assert found.exc_info[2] is error.__traceback__
    assert logging.Formatter().format(found) == logging.Formatter().format(record)


def test_of_an_exception_that_is_too_large_its_text_arrives() -> None:
    record = make("failed", exc_info=(ValueError, ValueError("x", b"y" * MAX_ERROR), None))
    found = sent(record)
    assert found.exc_info is None
    assert found.exc_text is not None and found.exc_text.startswith("ValueError: ('x', b'yyy")
    assert sent(make("failed", exc_info=(None, None, None))).exc_text == "NoneType: None"


def test_a_long_record_is_shortened() -> None:
    payload = pack_record(make("%s" + "x" * MAX_RECORD, 1, page=2, text="y" * MAX_RECORD), None, {})
    assert len(payload) < MAX_RECORD
    record: Any = unpack_record(payload).record
    assert "characters are left out" in record.getMessage()
    assert (record.page, len(record.text) < 2000) == ("2", True)


def test_a_record_that_contains_itself_is_shortened() -> None:
    loop: list[Any] = []
    loop.append(OrderedDict(loop=loop))
    assert sent(make("text", loop=loop)).getMessage() == "text"


def test_values_of_context_variables_are_attributes() -> None:
    arrived = unpack_record(pack_record(make("text", user="given"), None, {"request": "r", "user": "u", "it": Thing()}))
    record: Any = arrived.record
    assert (record.task_id, record.request, record.user, record.it) == (None, "r", "given", "a thing")
    assert arrived.context == {"request": "r", "user": "u"}


def test_a_warning_travels_with_its_record() -> None:
    warning = Warned("careful", "builtins", "UserWarning", "/app/pages.py", 7, None)
    assert unpack_record(pack_record(make("text"), None, {}, warning)).warning == warning
    assert unpack_record(pack_record(make("text"), None, {})).warning is None


@pytest.mark.parametrize("payload", [b"", b"\0\0", pickle.dumps((1, 2)), pickle.dumps(((), "", (), None, {}))])
def test_what_is_no_record_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed log record"):
        unpack_record(payload)
