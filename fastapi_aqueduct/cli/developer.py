"""The commands of developers, which typer runs. None of their modules, nor typer, is imported for another command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from ..exceptions import ConfigurationError

COMMANDS = {
    "check": "run the steps of a flow and say what is wrong",
    "tune": "measure the steps of a flow and recommend settings",
    "replay": "run a recorded task that has failed, or write a test of it",
}
"""The help of each command. Its function has its name, in ``cli/NAME/command.py``; typer reads its signature.

It raises ``typer.Exit`` with the exit status: 0; 1 for errors that it has found; an `AqueductError` becomes 2. Every
option and argument can be given in the environment, as ``AQUEDUCT_NAME_OPTION``.
"""

_REQUIRED = ("rich", "typer")


def run_command(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command, and exit with its status.

    Args:
        name: One of `COMMANDS`.
        arguments: Those after the name.

    Raises:
        ConfigurationError: The extra is not installed.
        AqueductError: The command cannot be run with these arguments.
    """
    if missing := [package for package in _REQUIRED if find_spec(package) is None]:
        raise ConfigurationError(
            f"`{name}` needs {' and '.join(missing)}: python -m pip install 'fastapi-aqueduct[cli]'"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # workers get it, and find the module of the flow
    make_app(name)(args=list(arguments), prog_name=f"fastapi-aqueduct {name}")
    sys.exit()


def make_app(name: str) -> Any:
    """Return a command, which runs when it is called with ``args``.

    Args:
        name: One of `COMMANDS`.
    """
    import typer

    prefix = f"AQUEDUCT_{name.upper()}"
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"auto_envvar_prefix": prefix, "help_option_names": ["-h", "--help"]},
    )
    app.command(name)(getattr(import_module(f"{__package__}.{name}.command"), name))
    command = typer.main.get_command(app)
    for parameter in command.params:
        if parameter.param_type_name == "argument":  # the prefix is for options only
            parameter.envvar = f"{prefix}_{parameter.name.upper()}"
    return command
