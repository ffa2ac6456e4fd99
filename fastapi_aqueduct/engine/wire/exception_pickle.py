"""Pickles exceptions so that they can be rebuilt without loss.

Pickle calls the class with ``args``. That fails for a constructor with other arguments, and changes the text of a class
that calls ``super().__init__(f"no {name}")``. So pickle's way is tried first, and an exception that does not survive it
is rebuilt from its parts, without its constructor. Pickle also omits slots, causes, contexts and tracebacks.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import pickle
import re
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any, TypeAlias

from ...exceptions import HandlerError
from .arrays import buffer_reducers
from .bounded_stream import BoundedStream
from .tracebacks import Frames, build_traceback, list_frames

MAX_SIZE = 1 << 20
"""Maximum bytes of a pickled exception, with all that it refers to."""

MAX_MESSAGE = 10_000
"""Maximum characters of the message of a `HandlerError` that replaces an exception."""

_LEFT_OUT = (vars(BaseException)["__suppress_context__"], vars(AttributeError)["obj"])
"""Slots that are omitted: the first follows from the cause, the second may be any object, and pickle omits it, too."""

_TEXTS_OF_ARGS = (BaseException.__str__, KeyError.__str__)
"""Methods that make the text of an exception from its arguments alone."""

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


class Forwarded(HandlerError):
    """Stands for an exception in a process that does not have the code of its class.

    It is packed as what it was.

    Args:
        body: The packed exception.
        where: Flow, step and worker, for the message of a `HandlerError`.
        name: The qualified name of its class.
        message: Its text.
        unpack: Called with ``body`` and ``where`` where it arrives.
    """

    def __init__(
        self, body: bytes, where: str, name: str, message: str, unpack: Callable[[bytes, str], Exception]
    ) -> None:
        super().__init__(f"{name} in {where}: {message}", type_name=name, original=message)
        self._parts = unpack, (body, where)

    def __reduce__(self) -> tuple[Callable[[bytes, str], Exception], tuple[bytes, str]]:
        return self._parts


class Strategy(Enum):
    """How an exception is rebuilt."""

    CLASS = auto()  # as its __reduce_ex__ says, as pickle does; args are restored
    PARTS = auto()  # by __new__, args, __dict__ and slots
    CLASS_ONLY = auto()  # as pickle does, without args or slots that cannot be pickled
    STAND_IN = auto()  # not at all: a HandlerError replaces it


class ExceptionPickler:
    """Pickles an exception and those that it refers to, and finds the strategy for each of them once."""

    def __init__(self) -> None:
        self._strategies: dict[int, tuple[BaseException, Strategy]] = {}

    def refuse(self, exc: BaseException) -> None:
        """Let a `HandlerError` replace an exception."""
        self._strategies[id(exc)] = exc, Strategy.STAND_IN

    def strategy_of(self, exc: BaseException) -> Strategy:
        """Return the strategy for an exception."""
        if id(exc) not in self._strategies:
            self.refuse(exc)  # for exceptions in its fields that refer back to it, until its strategy is known
            self._strategies[id(exc)] = exc, self._find_strategy(exc)
        return self._strategies[id(exc)][1]

    def pack(self, exc: BaseException, *, has_links: bool) -> bytes:
        """Pickle an exception.

        Args:
            exc: The exception.
            has_links: Whether tracebacks, causes and contexts are included.

        Raises:
            PicklingError: It takes more than `MAX_SIZE` bytes.
            Exception: It cannot be pickled.
        """
        return _Pickler(self, has_links=has_links).pack(exc)

    def _find_strategy(self, exc: BaseException) -> Strategy:
        for strategy in (Strategy.CLASS, Strategy.PARTS, Strategy.CLASS_ONLY):
            rebuilt = self._try(exc, strategy)
            if rebuilt is None or not _reads_alike(rebuilt, exc):
                continue
            if strategy is not Strategy.CLASS or _are_equal((rebuilt.args, _slots(rebuilt)), (exc.args, _slots(exc))):
                return strategy
        return Strategy.STAND_IN

    def _try(self, exc: BaseException, strategy: Strategy) -> BaseException | None:
        try:
            rebuilt = pickle.loads(_Pickler(self, has_links=False, tried=exc, strategy=strategy).pack(exc))
        except BaseException:  # a user's class may raise any error, also SystemExit
            return None
        return rebuilt if isinstance(rebuilt, BaseException) else None


class _Pickler(pickle.Pickler):
    """Pickles one exception and those that it refers to, each with its own strategy.

    Args:
        owner: Chooses the strategy of each exception.
        has_links: Whether tracebacks, causes and contexts are included.
        tried: An exception whose strategy is not known yet.
        strategy: The strategy to try for it.
    """

    def __init__(
        self,
        owner: ExceptionPickler,
        *,
        has_links: bool,
        tried: BaseException | None = None,
        strategy: Strategy = Strategy.STAND_IN,
    ) -> None:
        self._stream = BoundedStream(MAX_SIZE)
        super().__init__(self._stream, 5)
        self.dispatch_table = buffer_reducers
        self._owner = owner
        self._has_links = has_links
        self._tried = tried
        self._strategy = strategy

    def pack(self, exc: BaseException) -> bytes:
        self.dump(exc)
        return b"".join(self._stream.parts)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, BaseException):
            return NotImplemented
        if isinstance(value, Forwarded):
            return value.__reduce__()
        strategy = self._strategy if value is self._tried else self._owner.strategy_of(value)
        links = _links(value) if self._has_links else None
        if strategy is Strategy.PARTS:
            state: _State = (None, None, value.args, dict(vars(value)), _slots(value), links)
            return _make, (type(value), value.args), state, None, None, _restore
        if strategy is Strategy.STAND_IN:
            state = (None, None, None, {}, {}, links)
            return make_stand_in, (name_of(value), message_of(value)), state, None, None, _restore
        function, args, own, items, pairs, setter = (*_reduce(value), None, None, None, None)[:6]
        # A class with a __reduce__ of its own may be called with other arguments than args.
        kept = value.args if strategy is Strategy.CLASS and args is not value.args else None
        return function, args, (setter, own, kept, {}, {}, links), items, pairs, _restore


_Links: TypeAlias = tuple[Frames, BaseException | None, BaseException | None, list[str] | None]
"""What pickle omits: traceback, cause, context (where a traceback would show it), notes."""

_State: TypeAlias = tuple[Any, Any, tuple[Any, ...] | None, dict[str, Any], dict[str, Any], _Links | None]
"""The state of a rebuilt exception: the state setter and the state of its reducer; args, ``__dict__`` and slots; links.
Plain tuples: named ones would be pickled through their reducers."""


def chain_of(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that a traceback shows before it, each once."""
    seen: list[BaseException] = []
    following: BaseException | None = exc
    while following is not None and all(following is not one for one in seen):
        seen.append(following)
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def set_attribute(exc: BaseException, name: str, value: object) -> None:
    """Set an attribute without the class's ``__setattr__``, which may refuse (a frozen dataclass)."""
    object.__setattr__(exc, name, value)


def make_stand_in(name: str, message: str) -> HandlerError:
    """Return the error that replaces an exception that cannot be rebuilt."""
    return HandlerError(f"{name}: {message}", type_name=name, original=message)


def name_of(exc: BaseException) -> str:
    """Return the qualified name of an exception's class."""
    return f"{type(exc).__module__}.{type(exc).__qualname__}"


def describe(exc: BaseException) -> str:
    """Return the name of an exception's class, without its module, and its text."""
    if isinstance(exc, Forwarded):
        return f"{exc.type_name.rpartition('.')[2]}: {exc.message}"
    return f"{type(exc).__name__}: {exc}"


def message_of(exc: BaseException) -> str:
    """Return the shortened text of an exception, also where its class raises an error."""
    return shorten(_str(exc), MAX_MESSAGE)


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a long text."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"


def _str(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return "<its message could not be made>"


def _tell(exc: BaseException) -> tuple[type, str]:
    # The default text of an object contains its address, which differs in a copy.
    return type(exc), _ADDRESS.sub("", _str(exc))


def _reads_alike(one: BaseException, other: BaseException) -> bool:
    if _tell(one) == _tell(other):
        return True
    # The order of a set in the arguments may differ.
    is_text_of_args = type(one) is type(other) and type(one).__str__ in _TEXTS_OF_ARGS
    return is_text_of_args and _are_equal(one.args, other.args)


def _reduce(exc: BaseException) -> tuple[Any, ...]:
    reduce = copyreg.dispatch_table.get(type(exc))
    reduced = reduce(exc) if reduce is not None else exc.__reduce_ex__(5)
    if not isinstance(reduced, tuple):
        raise pickle.PicklingError(f"{name_of(exc)} is reduced to a name")
    return reduced


def _make(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    # The user's own __new__ may require other arguments, as __init__ may.
    new = next(vars(base)["__new__"] for base in cls.__mro__ if _has_builtin_new(base))
    exc: BaseException = new(cls, *args)
    return exc


def _has_builtin_new(cls: type) -> bool:
    return isinstance(vars(cls).get("__new__"), BuiltinFunctionType)


def _slots(exc: BaseException) -> dict[str, Any]:
    """Return the values of ``__slots__``, and of the fields of exceptions in C (``OSError.errno``)."""
    found: dict[str, Any] = {}
    for name, slot in _slots_of(type(exc)):  # type: ignore[arg-type]  # takes the class for its instances
        with contextlib.suppress(AttributeError):
            value = slot.__get__(exc)
            if value is not None:  # the value of a field in C that is not set
                found[name] = value
    return found


@functools.lru_cache(maxsize=256)
def _slots_of(cls: type) -> list[tuple[str, MemberDescriptorType]]:
    found: dict[str, MemberDescriptorType] = {}
    for base in reversed(cls.__mro__):
        for name, slot in vars(base).items():
            if isinstance(slot, MemberDescriptorType) and slot not in _LEFT_OUT:
                found[name] = slot
    return list(found.items())


def _links(exc: BaseException) -> _Links:
    cause = exc.__cause__
    context = None if cause is not None or exc.__suppress_context__ else exc.__context__
    return list_frames(exc.__traceback__), cause, context, getattr(exc, "__notes__", None)


def _restore(exc: BaseException, state: _State) -> None:
    setter, own, args, fields, slots, links = state
    if setter is not None:
        setter(exc, own)
    elif own is not None:
        exc.__setstate__(own)
    if args is not None:
        set_attribute(exc, "args", args)
    vars(exc).update(fields)
    for name, value in slots.items():
        with contextlib.suppress(AttributeError, TypeError):  # read-only ones, which __new__ has set
            set_attribute(exc, name, value)
    if links is not None:
        frames, cause, context, notes = links
        set_attribute(exc, "__traceback__", build_traceback(frames))
        set_attribute(exc, "__context__", context)
        if cause is not None:
            set_attribute(exc, "__cause__", cause)
        if notes is not None:
            vars(exc)["__notes__"] = notes


class _Shape(pickle.Pickler):
    """Pickles equal values to equal bytes; exceptions by their text, since each has a strategy of its own."""

    def reducer_override(self, value: Any) -> Any:
        return (str, (repr(_tell(value)),)) if isinstance(value, BaseException) else NotImplemented


def _are_equal(one: Any, other: Any) -> bool:
    # Most are equal by ==. Objects may compare by identity, arrays element by element, and NaN is not equal to itself.
    with contextlib.suppress(Exception):
        if one == other:
            return True
    with contextlib.suppress(Exception):
        return _shape(one) == _shape(other)
    return False


def _shape(value: Any) -> bytes:
    stream = BoundedStream(MAX_SIZE)
    pickler = _Shape(stream, 5)
    pickler.dispatch_table = buffer_reducers
    pickler.dump(value)
    return b"".join(stream.parts)
