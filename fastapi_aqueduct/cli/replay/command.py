"""The arguments of the command ``replay``."""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import Annotated

import typer

from ...recording.task_file import TaskFile
from ..arguments import FlowName, Target
from ..terminal import make_console
from .child import go_on_in_child
from .replay import Replay
from .report import Report
from .test_module import write_test

FAILS = 1
"""Exit status when the task still fails."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of a recorder.")],
    target: Target[str | None] = None,
    flow: FlowName = None,
    step_only: Annotated[
        bool, typer.Option("--step-only", help="End after the step that has failed.")
    ] = False,
    pdb: Annotated[
        bool, typer.Option("--pdb", help="Open the debugger where it fails; on Ctrl-C, where it is.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Only show what happened. Nothing is imported or unpickled.")
    ] = False,
    as_test: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write a test that fails as the task does, and run nothing."),
    ] = None,
) -> None:
    """Run a task that has failed, in this process, from the step in which it failed.

    Target and flow are those of the record, unless they are given. The status is 0 if it is done now, and 1 if it still
    fails. A file is a pickle: one of another user, or that others may write, is refused.
    """
    report = Report(make_console())
    metadata = TaskFile.read_metadata(file)
    if show:
        report.show(metadata)
        return
    if as_test is None and metadata.get("worker", {}).get("died") and (end := go_on_in_child()) is not None:
        report.note_end(end)
        raise typer.Exit(FAILS)
    found = Replay.prepare(TaskFile.read(file), target, flow)
    if as_test is not None:
        report.note_test(write_test(found, as_test, step_only))
        return
    report.begin(found.file.metadata)
    faulthandler.enable()  # a crash of a library shows where it was
    try:
        error = found.run(report, step_only)
    except KeyboardInterrupt as exc:
        report.note_interrupt(exc, has_debugger=pdb)
        raise typer.Exit(INTERRUPTED) from None
    report.end(found.file.metadata, error, has_debugger=pdb)
    raise typer.Exit(0 if error is None else FAILS)
