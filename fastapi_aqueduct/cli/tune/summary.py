"""What was found, on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..sizes import bytes_as_text, seconds_as_text
from ..tables import fitted
from .result import Findings, Run
from .wording import percent_text, rate_text, verdict


def show(findings: Findings, console: Console) -> None:
    """Print what was found.

    Args:
        findings: What was found.
        console: Where it is printed.
    """
    for step in findings.steps:
        for note in step.notes:
            console.print(f"note: {note}", markup=False)
    for note in findings.notes:
        console.print(f"note: {note}", markup=False)
    if findings.recommendation is not None:
        console.print(fitted(_settings(findings), console))
    if findings.before or findings.after:
        console.print(fitted(_runs(findings), console))
    for sentence in verdict(findings):
        console.print(sentence, markup=False)


def _settings(findings: Findings) -> Table:
    assert findings.recommendation is not None
    table = Table("step", "nprocs", "size", "threads", "a call takes", "it can do", title="recommended", box=None)
    curves = {step.name: step.costs.curves for step in findings.steps if step.costs}
    sizes = {step.name: step.size_option for step in findings.steps}
    for name, own in findings.recommendation.settings.items():
        table.add_row(
            name,
            str(own.nprocs),
            f"{sizes[name]} {own.size}",
            str(own.threads),
            seconds_as_text(curves[name][own.threads].seconds(own.size)),
            rate_text(findings.recommendation.capacity.limits[name]),
        )
    return table


def _runs(findings: Findings) -> Table:
    columns = ("settings", "load", "rate", "error", "mean", "error", "p95", "memory", "error")
    table = Table(*columns, title="runs", box=None)
    for name, run in (("its own", findings.before), ("recommended", findings.after)):
        if run is not None:
            table.add_row(*_run(name, run))
    return table


def _run(name: str, run: Run) -> list[str]:
    return [
        name,
        str(run.load),
        rate_text(run.outcome.rate),
        _error(run.rate_error),
        seconds_as_text(run.outcome.mean),
        _error(run.time_error),
        seconds_as_text(run.outcome.percentile(95)),
        bytes_as_text(run.outcome.memory),
        _error(run.memory_error),
    ]


def _error(part: float | None) -> str:
    return "" if part is None else percent_text(part)
