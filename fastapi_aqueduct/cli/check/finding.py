"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is.

    Attributes:
        ERROR: The flow does not work; the exit status is 1.
        WARNING: It works, and wastes time or memory or loses values.
        NOTE: It was not looked at, or is worth to know.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Code(StrEnum):
    """The kind of a finding; programs may rely on it. The page on the command line describes each."""

    MAIN_GUARD = "main-guard"
    IMPORT = "import"
    UNPICKLABLE_HANDLER = "unpicklable-handler"
    START = "start"
    SAMPLE = "sample"
    UNPICKLABLE_FIELD = "unpicklable-field"
    LARGE_HANDLER = "large-handler"
    FASTAPI_IN_WORKER = "fastapi-in-worker"
    THREADS = "threads"
    BATCH_DOES_NOT_PAY = "batch-does-not-pay"
    SLOW_FIRST_CALL = "slow-first-call"
    PICKLED_FIELD = "pickled-field"
    RETURNED_VALUE = "returned-value"
    NOT_VISITED = "not-visited"
    LOG = "log"


@dataclass(frozen=True)
class Finding:
    """What is wrong, and what to do.

    Attributes:
        code: Its kind.
        severity: How bad it is.
        text: What is wrong and what to do.
        step: Name of the step; empty if it concerns the flow.
        detail: A traceback, or other text of several lines.
    """

    code: Code
    severity: Severity
    text: str
    step: str = ""
    detail: str = ""
