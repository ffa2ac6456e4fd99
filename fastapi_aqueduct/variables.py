"""Environment variables that set numbers: how they are named, and what their values may be.

A variable is the path of an argument in code, as pydantic-settings has it with ``env_nested_delimiter="__"``:
``AQUEDUCT_OCR__CLASSIFY__NPROCS=4`` is ``nprocs=4`` of the step ``classify`` of the flow ``ocr``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from difflib import get_close_matches
from functools import cache
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from .exceptions import ConfigurationError
from .logger import log

PREFIX = "AQUEDUCT_"

DELIMITER = "__"

Value = int | float | str | None
"""A number, or ``"auto"`` or None in its place."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.([0-9]{1,6}))?(?:(k|Ki|M|Mi|G|Gi|T|Ti)B?)?")
_UNITS = {unit: 1000 ** (place + 1) for place, unit in enumerate("kMGT")} | {
    f"{unit}i": 1024 ** (place + 1) for place, unit in enumerate("KMGT")
}


def part(name: str) -> str:
    """Return what stands for a name in a variable: in upper case, with one ``_`` for all between letters and digits.

    Two parts are never longer than what is between two delimiters: ``__`` is in none, and ``_`` at no end.

    Args:
        name: Name of a flow or a step, or a path such as ``nprocs``.
    """
    return "_".join(re.findall("[a-zA-Z0-9]+", name)).upper()


def variable(stem: str, path: str) -> str:
    """Return the name of a variable.

    Args:
        stem: What stands before the option, such as ``AQUEDUCT_OCR__CLASSIFY__``.
        path: The option, such as ``queue_size``, or ``nprocs.minimum`` for the ``minimum`` of an object.
    """
    return stem + DELIMITER.join(map(part, path.split(".")))


def text_of(value: Value) -> str:
    """Return a value as it is written in a variable."""
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Number:
    """What an argument takes.

    Attributes:
        is_whole: Whether it is a whole number; otherwise it is one of seconds.
        words: What may stand in place of a number.
        default: The default of the argument; ``...`` if it has none.
    """

    is_whole: bool
    words: tuple[str | None, ...] = ()
    default: Any = ...

    @property
    def description(self) -> str:
        """What it takes, in words."""
        kind = "a whole number such as 4 or 512Mi" if self.is_whole else "a number of seconds such as 0.5"
        return ", or ".join([kind, *map(text_of, self.words)])

    def parse(self, text: str) -> Value:
        """Return the value of a variable.

        Raises:
            ConfigurationError: It is not such a number.
        """
        for word in self.words:
            if text.lower() == text_of(word):
                return word
        value = _whole(text) if self.is_whole else _seconds(text)
        if value is None:
            raise ConfigurationError(f"it must be {self.description}")
        return value


def _whole(text: str) -> int | None:
    """Read a whole number, which may have a suffix as quantities of Kubernetes have it."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        return None
    digits, fraction, unit = found[1], found[2] or "", found[3]
    if fraction and unit is None:
        return None
    value, rest = divmod(int(digits + fraction) * _UNITS.get(unit, 1), 10 ** len(fraction))
    return None if rest else value


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@cache
def numbers_of(target: Callable[..., object]) -> Mapping[str, Number]:
    """List the numbers among the parameters of a function, or the fields of a dataclass.

    Args:
        target: The function or class.

    Returns:
        What each takes, by name. A parameter that takes a dataclass adds that one's numbers under ``parameter.field``;
        objects in these have none.
    """
    found: dict[str, Number] = {}
    parameters = signature(target).parameters
    for name, hint in get_type_hints(target).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        words += [None for kind in kinds if kind is NoneType]
        if int in kinds or float in kinds:
            default = parameters[name].default
            found[name] = Number(float not in kinds, tuple(words), ... if default is Parameter.empty else default)
        for kind in kinds:
            if isinstance(kind, type) and is_dataclass(kind):
                found |= {f"{name}.{inner}": number for inner, number in numbers_of(kind).items() if "." not in inner}
    return found


@dataclass(frozen=True)
class Section:
    """What has numbers that variables set: a flow, one of its steps, an application.

    Attributes:
        label: What messages call it.
        stems: What stands before an option in a variable; any of them does, and the first one is recommended.
        numbers: Its numbers.
    """

    label: str
    stems: Sequence[str]
    numbers: Mapping[str, Number] = field(repr=False)

    def variable(self, path: str) -> str:
        """Return the recommended variable of an option."""
        return variable(self.stems[0], path)


class Found(NamedTuple):
    """A value of the environment.

    Attributes:
        variable: The variable.
        text: Its text.
        value: The value.
    """

    variable: str
    text: str
    value: Value

    def __str__(self) -> str:
        return f"{self.variable}={self.text}"


def read(sections: Sequence[Section], own: str, environ: Mapping[str, str]) -> list[dict[str, Found]]:
    """Read the variables of a flow or of an application.

    Args:
        sections: What they may set.
        own: What all of them begin with; other variables that begin with it are mistakes.
        environ: The environment. Empty values do not count.

    Returns:
        What was found for each section, by option.

    Raises:
        ConfigurationError: There are mistakes; the message has all of them.
    """
    known: dict[str, list[tuple[int, str]]] = {}
    for index, section in enumerate(sections):
        for path in section.numbers:
            for stem in section.stems:
                known.setdefault(variable(stem, path), []).append((index, path))
    found: list[dict[str, Found]] = [{} for _ in sections]
    problems: list[str] = []
    texts = {name: text.strip() for name, text in environ.items() if name.upper().startswith(PREFIX) and text.strip()}
    _warn_of_similar(texts, known)
    for name, text in texts.items():
        if name not in known:
            if name.startswith(own):
                problems.append(_unknown(name, sections, list(known)))
            continue
        (index, path), *others = known[name]
        if others:
            labels = " and for ".join(sections[index].label for index, _ in known[name])
            problems.append(f"{name} stands for {labels}: give them names that differ in letters or digits")
            continue
        try:
            value = Found(name, text, sections[index].numbers[path].parse(text))
        except ConfigurationError as exc:
            problems.append(f"{name}={text} is not {path} of {sections[index].label}: {exc}")
            continue
        before = found[index].setdefault(path, value)
        if before is not value:
            problems.append(f"{before.variable} and {name} are both {path} of {sections[index].label}: leave out one")
    if problems:
        raise ConfigurationError("\n    ".join(["wrong environment variables:", *problems]))
    return found


def _unknown(name: str, sections: Sequence[Section], known: Sequence[str]) -> str:
    """Describe a variable that sets nothing: what is similar, and what there is where it looks."""
    stem = max((stem for section in sections for stem in section.stems if name.startswith(stem)), key=len)
    near = [section for section in sections if stem in section.stems]
    # One name for each object with numbers: the engine has many times.
    options = dict.fromkeys(
        part(path.partition(".")[0]) + f"{DELIMITER}..." * ("." in path) for section in near for path in section.numbers
    )
    others = [section.stems[0] + "..." for section in sections if section not in near]
    similar = get_close_matches(name, known, 1)
    return (
        f"{name} sets nothing of {near[0].label}"
        + (f", did you mean {similar[0]}? After " if similar else ": after ")
        + f"{stem} comes one of {', '.join(options)}"
        + (f"; there are also {', '.join(others)}" if others else "")
    )


def _warn_of_similar(texts: Mapping[str, str], known: Mapping[str, object]) -> None:
    """Warn of variables that differ from known ones in underscores or in upper case; they may be the user's own."""
    plain = {re.sub("_+", "_", name): name for name in known}
    for name in texts:
        meant = plain.get(re.sub("_+", "_", name.upper()))
        if meant is not None and name not in known and (DELIMITER not in name or name != name.upper()):
            log.warning("the environment variable %s is not read; the one that is read is %s", name, meant)
