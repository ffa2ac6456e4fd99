"""Setting: a number that a flow or an application has, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from .exceptions import ConfigurationError
from .variables import Found, Section, Value, text_of

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A number that a flow has, and where it comes from.

    Attributes:
        step: Name of the step; None for a number of the flow itself.
        option: Its name in code, such as ``batch_size``; ``nprocs.minimum`` for that of an `Autoscale`.
        value: The value.
        source: ``"environment"``, ``"code"``, or ``"default"`` for one that equals the default.
        variable: The environment variable that has set it, or would set it.
    """

    step: str | None
    option: str
    value: Value
    source: Literal["environment", "code", "default"]
    variable: str

    def __str__(self) -> str:
        where = self.variable if self.source == "environment" else self.source
        return f"{self.option}={text_of(self.value)} ({where})"


def settings_of(
    section: Section, found: Mapping[str, Found], values: Mapping[str, Value], step: str | None = None
) -> Iterator[Setting]:
    """List the numbers of a section.

    Args:
        section: The section.
        found: What the environment has set, by option.
        values: The effective values, by option.
        step: Name of the step, if it is one.
    """
    for option, value in values.items():
        source: Literal["code", "default"] = "default" if section.numbers[option].default == value else "code"
        if option in found:
            yield Setting(step, option, value, "environment", found[option].variable)
        else:
            yield Setting(step, option, value, source, section.variable(option))


def apply(
    found: Mapping[str, Found], target: T, current: Callable[[T, str], Any], put: Callable[[T, str, Any], T]
) -> T:
    """Return an object with what the environment has set.

    Args:
        found: That, by option.
        target: The object.
        current: Returns the present value of an argument that is an object with numbers itself.
        put: Returns the object with another value of an argument.

    Raises:
        ConfigurationError: An argument cannot have this value; the message names the variable.
    """
    arguments: dict[str, dict[str, Found]] = {}
    for option, value in found.items():
        argument, _, inner = option.partition(".")
        arguments.setdefault(argument, {})[inner] = value
    for argument, values in arguments.items():
        named = " and ".join(map(str, values.values()))
        if "" in values and len(values) > 1:
            raise ConfigurationError(f"environment variables {named} exclude each other: leave out one")
        changes = {inner: value.value for inner, value in values.items()}
        try:
            given = changes[""] if "" in changes else replace(current(target, argument), **changes)
            target = put(target, argument, given)
        except ConfigurationError as exc:
            raise ConfigurationError(f"environment variable {named}: {exc}") from exc
    return target


def describe(settings: Iterable[Setting]) -> str:
    """Return a line for the log: first what was set, then the defaults, without those of objects."""
    settings = list(settings)
    parts = [str(setting) for setting in settings if setting.source != "default"]
    defaults = [
        f"{setting.option}={text_of(setting.value)}"
        for setting in settings
        if setting.source == "default" and "." not in setting.option
    ]
    if defaults:
        parts.append(f"default: {' '.join(defaults)}")
    return ", ".join(parts)
