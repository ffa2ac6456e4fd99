"""The arguments that commands of developers have in common."""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer

T = TypeVar("T")

Target = Annotated[
    T,
    typer.Argument(
        metavar="MODULE:NAME", help="A flow, a function of in_worker, a pool, an Aqueduct or an application."
    ),
]
"""What has the flow; of ``str``, or of ``str | None`` where it may be left out."""

FlowName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The name of the flow, if there are several behind the target.")
]
"""Which of its flows."""
