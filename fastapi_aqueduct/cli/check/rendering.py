"""Shows a report to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import indent

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...engine.shape import describe as describe_shape
from ...engine.shape import is_flat
from ...settings import Setting, describe
from ..sizes import bytes_as_text, seconds_as_text
from ..tables import fitted
from .finding import Finding, Severity
from .report import Field, Report, Run, Step, Travel

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}

_INDENT = 2

_TRAVELS = {
    Travel.REFERENCE: "by reference",
    Travel.SHARED: "copied to shared memory",
    Travel.PICKLED: "pickled",
}


def show(report: Report, console: Console) -> None:
    """Print a report.

    Args:
        report: The report.
        console: Where it is printed.
    """
    with console.capture() as output:
        if report.flow is not None:
            parts = [report.target, f"{report.cores} cores"]
            if not is_flat(report.shape):
                parts.append(describe_shape(report.shape))
            console.print(_title(f"flow {report.flow}", ", ".join(parts)))
            _show_settings(report.settings, console)
        if report.run is not None:
            _show_run(report.run, console)
        for step in report.steps:
            _show_step(step, console)
    for line in output.get().splitlines():
        print(line.rstrip())  # tables fill their last column
    _show_findings(report.findings, console)


def _show_run(run: Run, console: Console) -> None:
    parts = [run.task, "failed" if run.total_time is None else seconds_as_text(run.total_time)]
    if run.items:
        parts.append(f"{run.items} items of type {run.item_type}, the first after {seconds_as_text(run.first_item)}")
    console.print(_title(f"sample {run.sample}", ", ".join(parts)))


def _show_step(step: Step, console: Console) -> None:
    size = bytes_as_text(step.handler_size)
    console.print()
    console.print(_title(f"step {step.name}", f"{step.handler}, {step.form}, {size} pickled"))
    _show_settings(step.settings, console)
    if step.times is not None:
        times = step.times
        text = f"first call {seconds_as_text(times.first_call)}, warm call {seconds_as_text(times.warm_call)}"
        if times.batched_time is not None:
            batched, single = seconds_as_text(times.batched_time), seconds_as_text(times.single_time)
            text += f"; in a batch of {times.batch_size} {batched} for each task, alone {single}"
        _indent(Text(text), console)
    if step.workers:
        _indent(_workers(step), console)
    if step.fields_in is not None or step.fields_out is not None:
        _indent(_fields(step.fields_in or (), step.fields_out or ()), console)


def _workers(step: Step) -> Table:
    table = _table("worker", "pid", "imports", "ready after", "private", "model", "threads", "computing", "limit")
    for worker in step.workers:
        device = "" if worker.device is None else f" on {worker.device}"
        table.add_row(
            f"{worker.index}{device}",
            str(worker.pid),
            seconds_as_text(worker.import_time),
            seconds_as_text(worker.load_time),
            bytes_as_text(worker.private_memory),
            bytes_as_text(worker.model_memory),
            *("-" if count is None else str(count) for count in (worker.threads, worker.computing_threads)),
            str(worker.numeric_threads),
        )
    return table


def _fields(fields_in: Iterable[Field], fields_out: Iterable[Field]) -> Table:
    """Return one row for each field, and two for one that comes and goes with another type."""
    rows: dict[str, dict[str, dict[str, Field]]] = {}
    for way, fields in (("in", fields_in), ("out", fields_out)):
        for field in fields:
            rows.setdefault(field.name, {}).setdefault(field.type, {})[way] = field
    table = _table("field", "type", "size", "in", "out")
    for name, types in rows.items():
        for kind, ways in types.items():
            sizes = dict.fromkeys(bytes_as_text(field.size) for field in ways.values())
            travels = [_TRAVELS[ways[way].travel] if way in ways else "" for way in ("in", "out")]
            table.add_row(Text(name), Text(kind), ", ".join(sizes), *travels)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in ("size", "private", "model") else "left")
    return table


def _show_settings(settings: Sequence[Setting], console: Console) -> None:
    _indent(Text(describe(settings), style="dim"), console)


def _show_findings(findings: Sequence[Finding], console: Console) -> None:
    console.print()
    is_plain = not console.is_terminal  # then each finding is one line
    for finding in findings:
        head = Text.assemble((finding.severity.value, _STYLES[finding.severity]), f" {finding.code}")
        if finding.step:
            head.append(f", step {finding.step}")
        console.print(head.append(f": {finding.text}"), soft_wrap=is_plain)
        if finding.detail:
            console.print(Text(indent(finding.detail, "  "), style="dim"), soft_wrap=True)
    counts = [sum(finding.severity is severity for finding in findings) for severity in Severity]
    names = [f"{count} {severity.value}{'s' * (count != 1)}" for count, severity in zip(counts, Severity, strict=True)]
    console.print(Text(", ".join(names), style="bold red" if counts[0] else "bold green"))


def _title(name: str, rest: str) -> Text:
    return Text.assemble((name, "bold"), f": {rest}")


def _indent(what: Text | Table, console: Console) -> None:
    shown = fitted(what, console, _INDENT) if isinstance(what, Table) else what
    console.print(Padding(shown, (0, 0, 0, _INDENT), expand=False))
