"""The warnings that the package logs during a check, which become findings."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from ...engine.child.return_check import IGNORED
from ...logger import log
from .finding import Code, Finding, Severity


class WarningLog(logging.Handler):
    """Keeps the warnings and errors of the package's logger in a context; others do not get them.

    Attributes:
        findings: One for each text.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.findings: dict[str, Finding] = {}
        self._propagated = True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        text = record.getMessage()
        code = Code.RETURNED_VALUE if text.endswith(IGNORED) else Code.LOG
        severity = Severity.WARNING if record.levelno < logging.ERROR else Severity.ERROR
        self.findings.setdefault(text, Finding(code, severity, text, getattr(record, "step", ""), self._detail(record)))

    def _detail(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            return (self.formatter or logging.Formatter()).formatException(record.exc_info)
        return record.exc_text or ""

    def __enter__(self) -> WarningLog:
        self._propagated, log.propagate = log.propagate, False
        log.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        log.removeHandler(self)
        log.propagate = self._propagated

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings.values())
