"""Entry point of the command ``fastapi-aqueduct``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from ..exceptions import AqueductError
from .developer import COMMANDS, run_command
from .sagemaker import SERVE, SagemakerOptions, serve_model
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

_SAGEMAKER = """\
Serve a model on port 8080 as Amazon SageMaker asks for it, for real-time inference and Batch Transform.

  fastapi-aqueduct sagemaker inference --nprocs 2

The module has the hooks model_fn, input_fn, predict_fn and output_fn. As the entry point of an image:
ENTRYPOINT ["fastapi-aqueduct", "sagemaker", "inference"]
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and exit with its status: 0; 1 for a failed start, or for what was found; 2 for arguments.

    Args:
        arguments: Those of the command line; default: those of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given and given[0] in COMMANDS:
            run_command(given[0], given[1:])
        parsed = make_parser().parse_args(_without_serve(given))
        sys.exit(parsed.run(parsed))
    except AqueductError as exc:
        from .traceback import cause_text

        if detail := cause_text(exc):
            print(detail, file=sys.stderr)
        print(f"fastapi-aqueduct: {exc}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def make_parser() -> ArgumentParser:
    """Return the parser of the command line. It only lists `COMMANDS`, whose arguments typer reads."""
    parser = ArgumentParser("fastapi-aqueduct", description="Pipelines of worker processes for FastAPI.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _complete_serve(
        commands.add_parser(
            "serve",
            help="run the pipeline of a flow for several API processes",
            description=_SERVE,
            formatter_class=RawDescriptionHelpFormatter,
        )
    )
    _complete_sagemaker(
        commands.add_parser(
            "sagemaker",
            help="serve a model with the contract of Amazon SageMaker",
            description=_SAGEMAKER,
            formatter_class=RawDescriptionHelpFormatter,
        )
    )
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser


def _complete_serve(command: ArgumentParser) -> None:
    command.add_argument(
        "target", metavar="MODULE:NAME", help="a flow, a function of in_worker, a pool, an Aqueduct or an application"
    )
    command.add_argument(
        "--socket",
        required=True,
        metavar="PATH",
        help="where API processes connect; its directory must be this user's alone, and is made if there is none",
    )
    command.add_argument("--flow", metavar="NAME", help="the name of the flow, if there are several behind the target")
    command.set_defaults(run=lambda parsed: serve(ServeOptions(parsed.target, parsed.socket, parsed.flow)))


def _complete_sagemaker(command: ArgumentParser) -> None:
    command.add_argument(
        "target",
        nargs="?",
        metavar="MODULE",
        help="the module with the hooks, or an installed plug-in; default: SAGEMAKER_PROGRAM, or all plug-ins",
    )
    command.add_argument("--nprocs", type=int, metavar="N", help="number of worker processes")
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="the most requests in one call of predict_fn, which gets a list"
    )
    command.add_argument("--host", default="0.0.0.0", help="where it listens; default: all addresses")
    command.add_argument("--port", type=int, help="where it listens; default: SAGEMAKER_BIND_TO_PORT, or 8080")
    command.set_defaults(
        run=lambda parsed: serve_model(
            SagemakerOptions(parsed.target, parsed.nprocs, parsed.batch_size, parsed.host, parsed.port)
        )
    )


def _without_serve(arguments: Sequence[str]) -> Sequence[str]:
    """Leave out the argument that SageMaker adds to each entry point: it means nothing here."""
    is_added = arguments[:1] == ["sagemaker"] and arguments[-1:] == [SERVE]
    return arguments[:-1] if is_added else arguments
