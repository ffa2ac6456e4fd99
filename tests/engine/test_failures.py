"""Exceptions on their way from a worker: they arrive as themselves, or say in words why not."""

from __future__ import annotations

import errno
import gc
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fastapi_aqueduct import HandlerError, StartError
from fastapi_aqueduct.engine.memory.arena import Arena
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.wire import failures
from fastapi_aqueduct.engine.wire.exception_pickle import MAX_MESSAGE, MAX_SIZE, chain_of
from fastapi_aqueduct.engine.wire.failures import MAX_TEXT, decode_error, decode_logged, encode_error
from fastapi_aqueduct.engine.wire.tracebacks import MAX_FRAMES
from fastapi_aqueduct.exceptions import WorkerTraceback


class Missing(Exception):
    """Rebuilt by its class, it would say that there is no "no x"."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class Pair(Exception):
    """Wants two arguments and has one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Denied(OSError):
    """Wants its arguments by name."""

    def __init__(self, *, path: str) -> None:
        super().__init__(errno.EACCES, "denied", path)
        self.extra = [path]


class Slotted(Exception):
    """Pickle leaves its slot out."""

    __slots__ = ("code",)

    def __init__(self, code: int = 0) -> None:
        super().__init__("slotted")
        self.code = code


class LockedSlot(Exception):
    """Its slot cannot be pickled."""

    __slots__ = ("lock",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses to be written to."""

    code: int


class Named(Exception):
    """Its ``__new__`` wants other arguments than it passes on."""

    def __new__(cls, *, name: str) -> Named:
        return super().__new__(cls, name.upper())

    def __init__(self, *, name: str) -> None:
        self.name = name


class Group(ExceptionGroup[Exception]):
    """A group that makes its own message."""

    def __new__(cls, errors: list[Exception]) -> Group:
        return super().__new__(cls, f"{len(errors)} pages", errors)

    def __init__(self, errors: list[Exception]) -> None:
        self.pages = len(errors)


class Reduced(Exception):
    """Says itself how it is made, and from what."""

    def __init__(self, lock: Any, name: str) -> None:
        super().__init__(lock)
        self.name = name

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (None, self.name)


class Exiting(Exception):
    """Ends the process that makes it a second time."""

    is_armed = False

    def __init__(self, text: str, more: str = "") -> None:
        super().__init__(text)
        if self.is_armed:
            raise SystemExit(3)


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


class Here(Exception):
    """Cannot be made in the process that receives it."""

    is_here = True

    def __setstate__(self, state: Any) -> None:
        if not self.is_here:
            raise RuntimeError("not here")


class Value:
    """Has the address in its text and is equal to nothing else."""


class Form(BaseModel):
    number: int


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate({"number": "many"})
    return caught.value


def travel(exc: BaseException) -> Exception:
    """Raise, pack and unpack an exception."""
    try:
        raise exc
    except BaseException as caught:
        return decode_error(encode_error(caught), "step x")


def fields(exc: BaseException) -> dict[str, Any]:
    return {name: value for name, value in vars(exc).items() if name != "__notes__"}


FAITHFUL: dict[str, Callable[[], Exception]] = {
    "plain": lambda: ValueError("bad picture"),
    "a text of its own": lambda: Missing("x"),
    "two arguments": lambda: Pair(7, "seven"),
    "HTTPException by name": lambda: HTTPException(status_code=422, detail=[{"loc": ["body"]}]),
    "HTTPException in order": lambda: HTTPException(404, "gone", {"x-why": "age"}),
    "OSError with two files": lambda: OSError(errno.EXDEV, "no", "from", None, "to"),
    "OSError by name": lambda: Denied(path="/x"),
    "BlockingIOError": lambda: BlockingIOError(errno.EAGAIN, "later"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"abc", 0, 1, "bad"),
    "SyntaxError": lambda: SyntaxError("bad", ("file.py", 3, 1, "text", 3, 4)),
    "ImportError": lambda: ImportError("no", name="module", path="/x"),
    "AttributeError": lambda: AttributeError("no", name="lock", obj=threading.Lock()),
    "KeyError": lambda: KeyError("key"),
    "pydantic": invalid,
    "frozen": lambda: Frozen(code=3),
    "slots": lambda: Slotted(7),
    "__new__": lambda: Named(name="x"),
    "__reduce__": lambda: Reduced(None, "x"),
    "a group": lambda: ExceptionGroup("all", [Missing("a"), ExceptionGroup("some", [Pair(1, "b")])]),
    "a group of its own": lambda: Group([Missing("a"), Pair(1, "b")]),
    "not a number": lambda: ValueError(float("nan"), {"a"}),
    "an exception as an argument": lambda: RuntimeError(Missing("x")),
}


@pytest.mark.parametrize("make", FAITHFUL.values(), ids=FAITHFUL.keys())
def test_an_exception_arrives_as_itself(make: Callable[[], Exception]) -> None:
    exc = make()
    exc_args, text = exc.args, str(exc)
    arrived = travel(exc)
    assert type(arrived) is type(exc)
    assert str(arrived) == text
    assert repr(arrived) == repr(exc)
    assert [repr(one) for one in arrived.args] == [repr(one) for one in exc_args]
    assert repr(fields(arrived)) == repr(fields(exc))


@pytest.mark.parametrize("make", FAITHFUL.values(), ids=FAITHFUL.keys())
def test_an_exception_that_has_travelled_travels_on(make: Callable[[], Exception]) -> None:
    once = travel(make())
    twice = travel(once)
    assert (type(twice), str(twice)) == (type(once), str(once))


def test_what_c_and_slots_hold_travels() -> None:
    denied: Any = travel(Denied(path="/x"))
    assert (denied.errno, denied.strerror, denied.filename) == (errno.EACCES, "denied", "/x")
    slotted: Any = travel(Slotted(7))
    assert slotted.code == 7
    moved: Any = travel(OSError(errno.EXDEV, "no", "from", None, "to"))
    assert (moved.filename, moved.filename2) == ("from", "to")
    bad: Any = travel(SyntaxError("bad", ("file.py", 3, 1, "text", 3, 4)))
    assert (bad.filename, bad.lineno, bad.end_offset) == ("file.py", 3, 4)
    invalid_: Any = travel(invalid())
    assert invalid_.errors()[0]["loc"] == ("number",)


def test_what_cannot_be_pickled_of_an_exception_that_can_be_made_is_left_out() -> None:
    arrived = travel(LockedSlot("locked"))
    assert (type(arrived), str(arrived)) == (LockedSlot, "locked")
    reduced = travel(Reduced(threading.Lock(), "x"))
    assert (type(reduced), str(reduced)) == (Reduced, "x")


def test_an_address_in_a_text_is_no_difference() -> None:
    arrived = travel(ValueError(Value()))
    assert type(arrived) is ValueError
    assert type(arrived.args[0]) is Value


@pytest.mark.parametrize("make", [ValueError, KeyError, Missing])
def test_the_order_of_a_set_is_no_difference(make: Callable[[set[str]], Exception]) -> None:
    for size in range(2, 40):
        exc = make({f"name {number}" for number in range(size)})
        arrived = travel(exc)
        assert type(arrived) is type(exc)
        assert arrived.args == exc.args


def test_notes_travel() -> None:
    exc = Missing("x")
    exc.add_note("page 3")
    exc.add_note("of 7")
    assert travel(exc).__notes__ == ["page 3", "of 7"]
    reduced = Reduced(None, "x")
    reduced.add_note("page 3")
    assert travel(reduced).__notes__ == ["page 3"]


def test_the_causes_of_an_exception_stay_and_the_traceback_of_the_worker_is_the_last() -> None:
    try:
        try:
            raise Missing("x")
        except Missing as inner:
            raise Pair(7, "seven") from inner
    except Pair as outer:
        outer.first = outer.__cause__  # type: ignore[attr-defined]
        arrived: Any = decode_error(encode_error(outer), "step x")
    cause = arrived.__cause__
    assert (type(cause), str(cause)) == (Missing, "no x")
    assert arrived.first is cause
    assert type(cause.__cause__) is WorkerTraceback
    assert "no x" in cause.__cause__.text and "7: seven" in cause.__cause__.text
    assert traceback.extract_tb(cause.__traceback__)[-1].line == 'raise Missing("x")'


def test_the_context_of_an_exception_stays_where_it_is_shown() -> None:
    def fail(hide: bool) -> Exception:
        try:
            try:
                raise KeyError("inner")
            except KeyError:
                if hide:
                    raise ValueError("outer") from None
                raise ValueError("outer")  # noqa: B904
        except ValueError as exc:
            return decode_error(encode_error(exc), "step x")

    shown, hidden = fail(False), fail(True)
    assert [type(one) for one in chain_of(shown)] == [ValueError, KeyError, WorkerTraceback]
    assert shown.__cause__ is None
    assert [type(one) for one in chain_of(hidden)] == [ValueError, WorkerTraceback]


def test_exceptions_that_refer_to_each_other_travel() -> None:
    one, other = ValueError("one"), Missing("other")
    one.other, other.one = other, one  # type: ignore[attr-defined]
    one.__cause__, other.__cause__ = other, one
    arrived: Any = travel(one)
    assert arrived.other.one is arrived
    assert str(arrived.other) == "no other"
    assert [type(link) for link in chain_of(arrived)][:2] == [ValueError, Missing]


def test_a_cause_that_cannot_travel_is_stood_in_for_alone() -> None:
    exc = Missing("x")
    exc.__cause__ = ValueError(threading.Lock())
    arrived = travel(exc)
    assert str(arrived) == "no x"
    assert type(arrived.__cause__) is HandlerError
    assert arrived.__cause__.type_name == "builtins.ValueError"
    assert type(arrived.__cause__.__cause__) is WorkerTraceback


def test_a_long_chain_of_causes_is_left_to_the_text() -> None:
    exc = last = ValueError("first")
    for number in range(1_000):
        last.__cause__ = ValueError(number)
        last = last.__cause__
    arrived = travel(exc)
    assert str(arrived) == "first"
    assert type(list(chain_of(arrived))[-1]) is WorkerTraceback


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt("no"), StopIteration(4), GeneratorExit("x"), Mute()])
def test_what_would_harm_its_receiver_is_stood_in_for(exc: BaseException) -> None:
    arrived = travel(exc)
    assert type(arrived) is (Mute if isinstance(exc, Mute) else HandlerError)
    assert isinstance(list(chain_of(arrived))[-1], WorkerTraceback)


def test_a_class_that_ends_the_process_when_it_is_called_does_not() -> None:
    exc = Exiting("text", "more")
    Exiting.is_armed = True
    try:
        arrived = travel(exc)
    finally:
        Exiting.is_armed = False
    assert (type(arrived), str(arrived)) == (Exiting, "text")


def test_an_exception_that_cannot_be_made_by_its_receiver_is_stood_in_for() -> None:
    exc = Here("x")
    exc.field = 1  # type: ignore[attr-defined]
    packed = encode_error(exc)
    Here.is_here = False
    try:
        arrived = decode_error(packed, "step x")
    finally:
        Here.is_here = True
    assert type(arrived) is HandlerError
    assert str(arrived) == f"{__name__}.Here in step x: x"


def test_a_class_that_is_no_name_of_a_module_is_stood_in_for() -> None:
    class Local(Exception):
        pass

    arrived = travel(Local("text"))
    assert type(arrived) is HandlerError
    assert (arrived.type_name, arrived.message) == (f"{__name__}.{Local.__qualname__}", "text")
    assert str(arrived) == f"{arrived.type_name} in step x: text"
    assert traceback.extract_tb(arrived.__traceback__)[-1].line == "raise exc"


# Size


def test_a_large_exception_is_stood_in_for_with_a_short_text() -> None:
    document = "x" * (40 << 20)
    packed = encode_error(ValueError(document))
    assert len(packed) < MAX_SIZE // 4
    arrived = decode_error(packed, "step x")
    assert type(arrived) is HandlerError
    assert arrived.type_name == "builtins.ValueError"
    assert len(arrived.message) < MAX_MESSAGE + 100
    assert "characters are left out" in arrived.message
    assert len(str(list(chain_of(arrived))[-1])) < MAX_TEXT + 100


def test_an_exception_below_the_limit_travels_whole() -> None:
    arrived = travel(ValueError("x" * (MAX_SIZE - 10_000)))
    assert type(arrived) is ValueError
    assert len(str(arrived)) == MAX_SIZE - 10_000
    assert len(str(arrived.__cause__)) < MAX_TEXT + 100


def test_a_large_cause_is_stood_in_for_alone() -> None:
    exc = HTTPException(422, "bad")
    exc.__cause__ = ValueError("x" * (2 << 20))
    arrived: Any = travel(exc)
    assert (type(arrived), arrived.status_code) == (HTTPException, 422)
    assert type(arrived.__cause__) is HandlerError


def test_causes_that_are_large_together_are_left_to_the_text() -> None:
    exc = HTTPException(422, "bad")
    last: BaseException = exc
    for _ in range(4):
        last.__cause__ = ValueError("x" * (MAX_SIZE // 3))
        last = last.__cause__
    arrived = travel(exc)
    assert type(arrived) is HTTPException
    assert type(arrived.__cause__) is WorkerTraceback


# Memory


def test_an_exception_is_a_copy_and_holds_no_block() -> None:
    layout = Layout(regions=1, limit=1 << 20)
    fd = create_memory("test", layout.size)
    arena: Arena
    arena = Arena(Mapping(fd, layout.size), layout, 0, lambda offset: arena.free(offset))
    ref = arena.allocate(100_000)
    arena.write(ref)[:] = b"x" * 100_000
    lease = arena.lend(ref)
    view = arena.mapping.view(lease, 0, 100_000)
    image = np.frombuffer(view, np.uint8)
    exc = ValueError(view[:10], image[:20:2], image.reshape(100, 1000)[::10, ::10])
    exc.image = image  # type: ignore[attr-defined]
    packed = encode_error(exc)
    del exc, image, view, lease
    gc.collect()
    arena.collect()
    assert arena.leases == {}
    arrived: Any = decode_error(packed, "step x")
    arena.mapping.writable[:] = bytes(len(arena.mapping.writable))
    first, second, third = arrived.args
    assert bytes(first) == b"x" * 10
    assert bytes(second) == b"x" * 10
    assert third.shape == (10, 100) and (third == ord("x")).all()
    assert (arrived.image == ord("x")).all()
    os.close(fd)


def test_the_frames_of_an_exception_hold_nothing() -> None:
    def fail() -> None:
        kept = bytearray(10)
        raise ValueError(len(kept))

    with pytest.raises(ValueError) as caught:
        fail()
    arrived = decode_error(encode_error(caught.value), "step x")
    step = arrived.__traceback__
    assert step is not None
    while step is not None:
        assert step.tb_frame.f_back is None
        assert step.tb_frame.f_locals == {}
        assert list(step.tb_frame.f_globals) == ["__name__"]
        step = step.tb_next


# Frames


def dig(depth: int) -> None:
    if depth:
        dig(depth - 1)
    raise ValueError("deep" if depth else "bottom")


def spread(text: Any) -> Any:
    return [
        text[
            number
        ]["key"]
        for number in (lambda: range(3))()
    ]  # fmt: skip


def test_the_traceback_reads_as_it_did_in_the_worker() -> None:
    for fail in (lambda: dig(3), lambda: spread("text"), lambda: exec("1 / 0", {})):
        with pytest.raises(Exception) as caught:
            fail()
        arrived = decode_error(encode_error(caught.value), "step x")
        assert traceback.format_tb(arrived.__traceback__) == traceback.format_tb(caught.tb)


def test_a_deep_traceback_keeps_both_ends() -> None:
    with pytest.raises(ValueError) as caught:
        dig(200)
    arrived = decode_error(encode_error(caught.value), "step x")
    frames = traceback.extract_tb(arrived.__traceback__)
    assert len(frames) == MAX_FRAMES
    assert frames[0].name == "test_a_deep_traceback_keeps_both_ends"
    assert frames[-1].line == 'raise ValueError("deep" if depth else "bottom")'


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    assert decode_error(encode_error(ValueError("x")), "step x").__traceback__ is None


def test_those_in_a_group_have_their_own_frames() -> None:
    errors = []
    for fail in (lambda: dig(0), lambda: spread("text")):
        try:
            fail()
        except Exception as exc:
            errors.append(exc)
    arrived: Any = travel(ExceptionGroup("all", errors))
    names = [traceback.extract_tb(one.__traceback__)[-1].name for one in arrived.exceptions]
    assert names[0] == "dig" and "spread" in "".join(traceback.format_tb(arrived.exceptions[1].__traceback__))


# Notes of our own


@pytest.mark.parametrize(
    "write",
    [
        lambda image, view: image.__setitem__(0, 1),
        lambda image, view: np.add(image, 1, out=image),
        lambda image, view: image.sort(),
        lambda image, view: setattr(image.flags, "writeable", True),
        lambda image, view: view.__setitem__(0, 1),
    ],
)
def test_writing_into_an_input_is_explained(write: Callable[[Any, Any], None]) -> None:
    view = memoryview(bytes(10))
    try:
        write(np.frombuffer(view, np.uint8), view)
    except (ValueError, TypeError) as exc:
        arrived = decode_error(encode_error(exc), "step x")
    assert "share_value" in arrived.__notes__[0]
    assert "share_value" in str(arrived.__cause__)


def test_other_errors_are_not_explained() -> None:
    assert not hasattr(travel(ValueError("the disk is read-only")), "__notes__")


# Anything


exceptions = st.recursive(
    st.builds(ValueError, st.text() | st.binary() | st.integers())
    | st.builds(Missing, st.text())
    | st.builds(Pair, st.integers(), st.text())
    | st.builds(lambda code, detail: HTTPException(status_code=code, detail=detail), st.just(422), st.text())
    | st.builds(Slotted, st.integers()),
    lambda inner: (
        st.builds(lambda text, errors: ExceptionGroup(text, errors), st.text(), st.lists(inner, min_size=1, max_size=3))
        | st.builds(RuntimeError, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(exceptions, st.none() | exceptions, st.lists(st.text(), max_size=2))
def test_any_of_them_arrives_with_cause_and_notes(exc: Exception, cause: Exception | None, notes: list[str]) -> None:
    exc.__cause__ = cause
    for note in notes:
        exc.add_note(note)
    arrived = travel(exc)
    assert (type(arrived), repr(arrived), str(arrived)) == (type(exc), repr(exc), str(exc))
    assert getattr(arrived, "__notes__", []) == notes
    if cause is not None:
        assert repr(arrived.__cause__) == repr(cause)
    *_, last = chain_of(arrived)
    assert type(last) is WorkerTraceback


# Through a process without the user's code


def test_an_exception_of_the_user_passes_through_a_process_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        raise Missing("x") from KeyError("k")
    except Missing as exc:
        body = encode_error(exc)
    monkeypatch.setattr(failures, "_forwards", True)
    there = decode_error(body, "step s of flow f (pid 7)")
    assert isinstance(there, HandlerError) and not isinstance(there, Missing)
    assert str(there) == f"{__name__}.Missing in step s of flow f (pid 7): no x"
    assert "Missing: no x" in "".join(traceback.format_exception(there))  # as its log shows it
    error = StartError("a worker failed", step="s", pid=7)
    error.__cause__ = there
    bodies = encode_error(there), encode_error(error)
    monkeypatch.undo()
    arrived = decode_logged(bodies[0])[0]
    assert isinstance(arrived, Missing) and str(arrived) == "no x" and isinstance(arrived.__cause__, KeyError)
    again = decode_logged(bodies[1])[0]
    assert isinstance(again, StartError) and again.pid == 7
    assert isinstance(again.__cause__, Missing)
    *_, last = chain_of(again)
    assert isinstance(last, WorkerTraceback) and "Missing: no x" in str(last)


def test_an_exception_of_the_standard_library_is_itself_in_such_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [encode_error(error) for error in (FileNotFoundError(2, "no", "x"), StartError("no", step="s"))]
    monkeypatch.setattr(failures, "_forwards", True)
    file, start = (decode_error(body, "s") for body in bodies)
    assert isinstance(file, FileNotFoundError) and file.filename == "x"
    assert isinstance(start, StartError) and start.step == "s"


def test_what_could_not_be_packed_stays_a_handler_error_in_such_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encode_error(SystemExit(3))
    monkeypatch.setattr(failures, "_forwards", True)
    there = decode_error(body, "s")
    assert type(there) is HandlerError and there.type_name == "builtins.SystemExit"
