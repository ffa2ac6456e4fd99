"""The arguments of the command ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..migration.report import report


def check(
    from_aqueduct: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Read a project for the package aqueduct instead, without importing it."),
    ] = None,
) -> None:
    """List what works differently in a project for the package aqueduct."""
    if from_aqueduct is None:
        raise typer.BadParameter("missing", param_hint="--from-aqueduct")
    raise typer.Exit(report(from_aqueduct))
