"""The command ``sagemaker``: serves a model as Amazon SageMaker asks for it."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from typing import NamedTuple

from ..exceptions import ConfigurationError
from ..function_options import FunctionOptions
from ..sagemaker.environment import Environment
from .signals import exit_on_signals

SERVE = "serve"
"""The argument with which SageMaker runs each image."""


class SagemakerOptions(NamedTuple):
    """The arguments of the command.

    Attributes:
        target: As for `create_app`.
        nprocs: Number of worker processes; None: that of the environment.
        batch_size: As for `create_app`.
        host: Where it listens.
        port: Where it listens; None: that of the environment.
    """

    target: str | None
    nprocs: int | None
    batch_size: int | None
    host: str
    port: int | None


def serve_model(options: SagemakerOptions) -> int:
    """Serve a model until SIGTERM or SIGINT.

    Args:
        options: The arguments.

    Returns:
        The exit status, if the server returns.

    Raises:
        ConfigurationError: There is no server, or an argument or a variable has a wrong value.
    """
    exit_on_signals()
    missing = [name for name in ("pluggy", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"this command needs {' and '.join(missing)}: python -m pip install 'fastapi-aqueduct[sagemaker]'"
        )
    import uvicorn

    from ..sagemaker.app import create_app

    environment = Environment.read(os.environ)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # workers get it, and find the module
    given: FunctionOptions = {} if options.nprocs is None else {"nprocs": options.nprocs}
    app = create_app(options.target, batch_size=options.batch_size, **given)
    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s", level=environment.log_level)
    port = environment.port if options.port is None else options.port
    uvicorn.run(app, host=options.host, port=port, log_level=environment.log_level)
    return 0
