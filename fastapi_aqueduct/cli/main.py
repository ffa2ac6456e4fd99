"""Entry point of the command ``fastapi-aqueduct``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from ..exceptions import AqueductError
from .serve import ServeOptions, serve

USAGE_ERROR = 2
"""Exit status when nothing could be started as the arguments say; that of argparse."""

_SERVE = """\
Run the pipeline of a flow for API processes that have pipeline="unix:PATH", or AQUEDUCT_PIPELINE=unix:PATH.

  fastapi-aqueduct serve main:flow --socket /run/ocr/flow.sock

The module is imported in a short-lived process, from the current directory or from where Python finds it. SIGTERM and
SIGINT stop the pipeline when the tasks under way have ended; a second one stops it at once. Under systemd, Type=notify
waits until all workers are ready.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and exit with its status: 0; 1 for a flow that could not be started; 2 for arguments.

    Args:
        arguments: Those of the command line; default: those of this process.
    """
    parsed = make_parser().parse_args(arguments)
    try:
        sys.exit(serve(ServeOptions(parsed.target, parsed.socket, parsed.flow)))
    except AqueductError as exc:
        print(f"fastapi-aqueduct: {exc}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser("fastapi-aqueduct", description="Pipelines of worker processes for FastAPI.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser(
        "serve",
        help="run the pipeline of a flow for several API processes",
        description=_SERVE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "target", metavar="MODULE:NAME", help="a flow, a function of in_worker, an Aqueduct or an application"
    )
    command.add_argument(
        "--socket",
        required=True,
        metavar="PATH",
        help="where API processes connect; its directory must be this user's alone, and is made if there is none",
    )
    command.add_argument("--flow", metavar="NAME", help="the name of the flow, if there are several behind the target")
    return parser
