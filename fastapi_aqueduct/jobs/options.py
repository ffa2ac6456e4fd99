"""The numbers of a queue of jobs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import ConfigurationError
from ..logger import log
from ..settings import apply, describe, settings_of
from ..variables import DELIMITER, PREFIX, Section, numbers_of, part, read

LONGEST = 1e9
"""Seconds, about 30 years: calendars have no time that is much farther away."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How jobs are kept and run.

    Attributes:
        keep_for: Seconds for which a job that has ended is kept, with its result.
        max_pending: The most jobs that may be in the queue or running.
        max_running: The most jobs that may be in a flow at the same time; None: as many as its largest step has
            workers.
        job_timeout: Seconds that a job may take from its start to its end.
        max_retries: How often a job runs again after the end of the process, or of the worker, that ran it. 0: it runs
            at most once, and has failed then.

    Raises:
        ConfigurationError: A number cannot work.
    """

    keep_for: float = 3600.0
    max_pending: int = 10_000
    max_running: int | None = None
    job_timeout: float = 900.0
    max_retries: int = 2

    def __post_init__(self) -> None:
        for name in ("keep_for", "max_pending", "max_running", "job_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"Jobs needs {name} > 0, got {value}")
        if not self.keep_for <= LONGEST:
            raise ConfigurationError(f"Jobs needs keep_for <= {LONGEST:g}: results must expire, got {self.keep_for}")
        if self.max_retries < 0:
            raise ConfigurationError(f"Jobs needs max_retries >= 0, got {self.max_retries}")

    def read(self) -> JobOptions:
        """Return what holds with the environment, and log it.

        Raises:
            ConfigurationError: A variable names no number of jobs, or a value is wrong.
        """
        own = PREFIX + part("jobs") + DELIMITER
        section = Section("jobs", (own,), numbers_of(JobOptions))
        (found,) = read([section], own, os.environ)
        options = apply(found, self, getattr, _with_option)
        log.info("jobs: %s", describe(settings_of(section, found, vars(options))))
        return options


def _with_option(options: JobOptions, name: str, value: Any) -> JobOptions:
    return replace(options, **{name: value})
