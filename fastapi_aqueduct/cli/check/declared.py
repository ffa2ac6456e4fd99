"""A step as it is declared, before its workers are started."""

from __future__ import annotations

from collections.abc import Sequence

from ...call import CallHandler
from ...engine.options import EngineOptions
from ...engine.workers.starter import spec_maker
from ...exceptions import ConfigurationError
from ...handler import BaseTaskHandler, form_of
from ...settings import Setting
from ...step import FlowStep
from .finding import Code, Finding, Severity
from .pickles import find_unpicklable
from .report import Step
from .rules import handler_findings


def declared_step(
    name: str, step: FlowStep, options: EngineOptions, settings: Sequence[Setting]
) -> tuple[Step, list[Finding]]:
    """Return what is known of a step without a worker, and what is wrong with it.

    Args:
        name: Its name.
        step: Its options.
        options: Those of the flow.
        settings: Its effective numbers.
    """
    handler = step.handler
    size: int | None = None
    try:
        size = len(spec_maker(options).pack(name, step))
        findings = list(handler_findings(name, handler, size))
    except ConfigurationError as exc:
        part = find_unpicklable(type(handler).__qualname__, handler)
        text = f"the handler cannot be sent to a worker, because of {part}: make it in on_start" if part else str(exc)
        findings = [Finding(Code.UNPICKLABLE_HANDLER, Severity.ERROR, text, name)]
    form = form_of(handler).name.lower().replace("_", " ")
    return Step(name, _name_of(handler), form, size, settings), findings


def _name_of(handler: BaseTaskHandler) -> str:
    what = handler._function if isinstance(handler, CallHandler) else type(handler)
    return f"{what.__module__}.{what.__qualname__}"
