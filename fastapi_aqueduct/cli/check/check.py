"""Makes the report of a check."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ...engine.system.cpu import available_cores
from ..sample import find_sample
from ..target import ModuleFailed, find_flow, find_module
from .failures import failed_import
from .finding import Finding, Severity
from .inspection import Inspection
from .progress import Progress
from .report import Report
from .rules import sample_findings, worker_findings
from .source import source_findings
from .warnings import WarningLog


class CheckOptions(NamedTuple):
    """The arguments of the command.

    Attributes:
        target: As for `find_flow`.
        flow: As for `find_flow`.
        sample: As for `find_sample`; None: no task is run.
        timeout: Seconds in which the sample must be answered.
    """

    target: str
    flow: str | None
    sample: str | None
    timeout: float


def make_report(options: CheckOptions, progress: Progress) -> Report:
    """Check a flow.

    Args:
        options: The arguments.
        progress: Gets what is done now.

    Raises:
        ConfigurationError: There is no such flow or sample, or the environment sets what cannot be.
    """
    findings = list(source_findings(options.target))
    if findings:
        return _empty(options, findings)
    with WarningLog() as warnings:
        for name in _modules(options):
            try:
                find_module(name)
            except ModuleFailed as exc:
                return _empty(options, [failed_import(exc)])
        flow = find_flow(options.target, options.flow)
        sample = None if options.sample is None else find_sample(options.sample, options.target, flow)
        inspection = Inspection(flow, sample, options.timeout, progress)
        asyncio.run(inspection.inspect())
    cores = available_cores()
    findings += [*inspection.findings, *worker_findings(inspection.steps, cores)]
    if inspection.run is not None and inspection.run.total_time is not None:
        findings += sample_findings(inspection.steps)
    findings += warnings
    settings = [setting for setting in flow._configuration.settings if setting.step is None]
    parts = settings, inspection.steps, inspection.run, _sorted(findings)
    return Report(options.target, flow.name, flow.shape, cores, *parts)


def _modules(options: CheckOptions) -> list[str]:
    named = [name.partition(":")[0] for name in (options.target, options.sample or "") if ":" in name]
    return [name for name in named if name]


def _empty(options: CheckOptions, findings: list[Finding]) -> Report:
    return Report(options.target, None, (), available_cores(), [], [], None, findings)


def _sorted(findings: list[Finding]) -> list[Finding]:
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))
