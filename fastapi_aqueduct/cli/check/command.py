"""The arguments of the command ``check``."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from ..arguments import FlowName, Target
from ..migration.report import report as report_project
from ..terminal import make_console, stdout_to_stderr
from .check import CheckOptions, make_report
from .rendering import show

TIMEOUT = 60.0
"""Seconds in which a sample must be answered, unless an option says otherwise."""

FAILED = 1
"""Exit status when something does not work."""


def check(
    target: Target[str | None] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION", help="Makes the task that is run through the flow: a name there, or MODULE:FUNCTION."
        ),
    ] = None,
    flow: FlowName = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="How long the sample, and each measurement, may take.")
    ] = TIMEOUT,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for programs.")] = False,
    from_aqueduct: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Read a project for the package aqueduct instead, without importing it."),
    ] = None,
) -> None:
    """Start the steps of a flow, run a sample through them, and say what is wrong.

    fastapi-aqueduct check main:flow --sample make_task

    The status is 1 if something does not work, else 0.
    """
    if (target is None) is (from_aqueduct is None):
        raise typer.BadParameter("one of the two is needed, and not both", param_hint="MODULE:NAME or --from-aqueduct")
    if from_aqueduct is not None:
        raise typer.Exit(report_project(from_aqueduct))
    if not isfinite(timeout):
        raise typer.BadParameter("a number of seconds is needed", param_hint="--timeout")
    assert target is not None
    console = make_console(to_stderr=True)
    with stdout_to_stderr(), console.status("") as status:
        found = make_report(CheckOptions(target, flow, sample, timeout), lambda text: status.update(f"{text} ..."))
    if json:
        print(found.as_json())
    else:
        show(found, make_console())
    raise typer.Exit(FAILED if found.has_errors else 0)
