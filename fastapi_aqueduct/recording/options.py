"""The numbers of a recorder."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import ConfigurationError
from ..settings import apply
from ..variables import DELIMITER, PREFIX, Section, numbers_of, part, read


@dataclass(frozen=True, kw_only=True)
class RecorderOptions:
    """How much a recorder keeps.

    Attributes:
        keep: The most files.
        max_size: The most bytes of all files together.
        per_minute: The most tasks of one step and class of exception that are recorded in a minute.

    Raises:
        ConfigurationError: A number cannot work.
    """

    keep: int = 50
    max_size: int = 1 << 30
    per_minute: int = 5

    def __post_init__(self) -> None:
        for name in ("keep", "max_size", "per_minute"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigurationError(f"Recorder needs {name} > 0, got {value}")

    def read(self) -> RecorderOptions:
        """Return what holds with the environment.

        Raises:
            ConfigurationError: A variable names no number of a recorder, or a value is wrong.
        """
        own = PREFIX + part("recorder") + DELIMITER
        section = Section("the recorder", (own,), numbers_of(RecorderOptions))
        (found,) = read([section], own, os.environ)
        return apply(found, self, getattr, _with_option)


def _with_option(options: RecorderOptions, name: str, value: Any) -> RecorderOptions:
    return replace(options, **{name: value})
