"""What an exception says, as findings."""

from __future__ import annotations

from ...exceptions import ConfigurationError, StartError, TaskNotPicklable
from ...task import BaseTask
from ..sample import SampleFailed
from ..target import ModuleFailed
from ..traceback import cause_text, traceback_text
from .finding import Code, Finding, Severity
from .pickles import find_unpicklable


def failed_import(exc: ModuleFailed) -> Finding:
    """Describe a module that cannot be imported."""
    return Finding(Code.IMPORT, Severity.ERROR, str(exc), detail=cause_text(exc))


def failed_start(exc: StartError | ConfigurationError) -> Finding:
    """Describe a flow that could not be started."""
    step = exc.step if isinstance(exc, StartError) else ""
    return Finding(Code.START, Severity.ERROR, str(exc), step, cause_text(exc))


def failed_maker(exc: SampleFailed | ConfigurationError) -> Finding:
    """Describe a function that should make a sample."""
    return Finding(Code.SAMPLE, Severity.ERROR, str(exc), detail=cause_text(exc))


def failed_sample(what: str, task: BaseTask, exc: Exception, step: str) -> Finding:
    """Describe a task that has failed.

    Args:
        what: What was tried.
        task: The task.
        exc: How it has failed.
        step: Where; empty if that is not known.
    """
    if isinstance(exc, TaskNotPicklable):
        parts = [find_unpicklable(f"{type(task).__qualname__}.{name}", value) for name, value in vars(task).items()]
        text = next((f"a task cannot be sent, because of {part}" for part in parts if part), str(exc))
        return Finding(
            Code.UNPICKLABLE_FIELD, Severity.ERROR, f"{text}: make it in on_start of the handler, or leave it out", step
        )
    return Finding(Code.SAMPLE, Severity.ERROR, f"{what}: {_line(exc)}", step, traceback_text(exc))


def _line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
