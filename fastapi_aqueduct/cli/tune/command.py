"""The arguments of the command ``tune``."""

from __future__ import annotations

import asyncio
import json
import signal
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ...exceptions import ConfigurationError
from ..arguments import FlowName, Target
from ..sample import find_sample
from ..target import find_flow
from ..terminal import make_console, stdout_to_stderr
from .files import as_json, env_text
from .goal import Goal, Objective
from .progress import Bar
from .result import Findings
from .session import Session
from .summary import show

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of shells."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def tune(
    target: Target[str],
    sample: Annotated[
        str,
        typer.Option(metavar="FUNCTION", help="Returns a task, or several as an iterable; also MODULE:FUNCTION."),
    ],
    flow: FlowName = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Tasks per second that it has to bear.")] = None,
    slo: Annotated[
        str | None, typer.Option(metavar="p95=200ms", help="Within what time a part of the tasks has to be answered.")
    ] = None,
    budget: Annotated[float, typer.Option(metavar="SECONDS", min=5.0, help="How long it may take, about.")] = 120.0,
    report: Annotated[Path, typer.Option(metavar="PATH", help="Where the report is written.")] = Path("tune.html"),
    write: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the settings as variables, such as to tune.env.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", envvar="AQUEDUCT_TUNE_JSON", help="Print everything that was measured as JSON.")
    ] = False,
) -> None:
    """Measure the steps of a flow and recommend settings.

    Runs every step with real workers over batch sizes, threads and numbers of workers, says what is the bottleneck and
    what settings to choose, and runs the flow with them. Ctrl-C ends the measurements; what was measured is reported.
    """
    if missing := [package for package in ("jinja2", "matplotlib") if find_spec(package) is None]:
        raise ConfigurationError(
            f"`tune` needs {' and '.join(missing)}: python -m pip install 'fastapi-aqueduct[cli]'"
        )
    goal = Goal(rate, None if slo is None else Objective.parse(slo))
    if not isfinite(budget):
        raise typer.BadParameter("a number of seconds is needed", param_hint="--budget")
    for path in filter(None, (report, write)):
        _check_writable(path)
    with stdout_to_stderr(), Bar(make_console(to_stderr=True), budget) as bar:
        found = find_flow(target, flow)
        session = Session(found, find_sample(sample, target, found), goal, budget, bar)
        findings = asyncio.run(_run(session))
    _tell(findings, report, write, json_output)


async def _run(session: Session) -> Findings:
    """Run a session. The first signal ends the measurements, a second one everything."""
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    assert running is not None

    def stop() -> None:
        session.interrupt()
        for number in SIGNALS:
            loop.add_signal_handler(number, running.cancel)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        return await session.run()
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None


def _tell(findings: Findings, report: Path, write: Path | None, is_json: bool) -> NoReturn:
    # First what cannot fail: the disk may be full by now.
    console = make_console()
    if is_json:
        print(json.dumps(as_json(findings), indent=2), flush=True)
    else:
        show(findings, console)
    _write(findings, report, write)
    if not is_json:
        _name_files(console, findings, report, write)
    raise typer.Exit(INTERRUPTED if findings.is_interrupted else 0)


def _write(findings: Findings, report: Path, write: Path | None) -> None:
    # matplotlib takes a second to import, and is not needed before.
    from .report import report_text

    texts = {report: report_text(findings)}
    if write is not None and findings.recommendation is not None:
        texts[write] = env_text(findings)
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc


def _name_files(console: Console, findings: Findings, report: Path, write: Path | None) -> None:
    console.print(f"report: {report}", markup=False)
    if write is not None:
        written = f"settings: {write}" if findings.recommendation else f"settings: none to write to {write}"
        console.print(written, markup=False)


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before minutes of measurements."""
    if path.is_dir():
        raise ConfigurationError(f"{path} cannot be written: it is a directory")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"{path} cannot be written: there is no directory {path.absolute().parent}")
    is_new = not path.exists()
    try:
        path.open("a").close()
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
    if is_new:
        path.unlink()
