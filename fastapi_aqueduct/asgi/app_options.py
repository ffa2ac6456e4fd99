"""The numbers of an application, which the environment may set."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import ConfigurationError
from ..logger import log
from ..settings import apply, describe, settings_of
from ..variables import PREFIX, Section, numbers_of, read, variable
from .settings import UploadLimits


@dataclass(frozen=True)
class AppOptions:
    """What an application has numbers for.

    Attributes:
        drain_delay: Seconds between SIGTERM and the server's own shutdown.
        upload_limits: Limits of uploads for endpoints without their own; None: the default ones.
        handles_signals: Whether SIGTERM is handled.

    Raises:
        ConfigurationError: The delay cannot work.
    """

    drain_delay: float = 0.0
    upload_limits: UploadLimits | None = None
    handles_signals: bool = True

    def __post_init__(self) -> None:
        if self.drain_delay < 0:
            raise ConfigurationError(f"drain_delay must not be negative, got {self.drain_delay}")
        if self.drain_delay and not self.handles_signals:
            raise ConfigurationError("drain_delay begins with SIGTERM, so it needs handle_signals=True")

    def read(self) -> AppOptions:
        """Return what holds with the environment, and log it.

        Raises:
            ConfigurationError: A variable names no limit of uploads, or a value is wrong.
        """
        section = Section("the application", (PREFIX,), numbers_of(AppOptions))
        (found,) = read([section], variable(PREFIX, "upload_limits."), os.environ)
        options = apply(found, self, _object, _with_option)
        values = {option: _value(options, *option.split(".")) for option in section.numbers}
        log.info("application: %s", describe(settings_of(section, found, values)))
        return options


def _with_option(options: AppOptions, argument: str, value: Any) -> AppOptions:
    return replace(options, **{argument: value})


def _object(options: AppOptions, argument: str) -> Any:
    return getattr(options, argument) or UploadLimits()


def _value(options: AppOptions, argument: str, inner: str | None = None) -> Any:
    return getattr(options, argument) if inner is None else getattr(_object(options, argument), inner)
