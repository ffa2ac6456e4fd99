"""The command ``serve``: runs the pipeline of a flow until it is stopped."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from ..engine.shared.pipeline_loop import run_pipeline
from ..engine.shared.process import adopt_surroundings
from ..engine.shared.reception import listen
from ..engine.shared.server import PipelineServer
from ..engine.wire.failures import forward_errors
from ..exceptions import AqueductError
from ..logger import log
from .notify import Notifier
from .place import claim
from .planner import log_to_stderr, plan_in_child
from .signals import SIGNALS, exit_on_signals

START_FAILED = 1
"""Exit status when the flow could not be started."""


class ServeOptions(NamedTuple):
    """The arguments of the command.

    Attributes:
        target: ``module:name``; see `find_flow`.
        socket: Path of the socket.
        flow: Name of the flow; None if there is one only.
    """

    target: str
    socket: str
    flow: str | None


def serve(options: ServeOptions) -> int:
    """Run the pipeline of a flow until SIGTERM or SIGINT.

    Args:
        options: The arguments.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: There can be no socket where it should be.
    """
    exit_on_signals()
    forward_errors()
    notifier = Notifier()
    path = Path(os.path.abspath(options.socket))
    with claim(path):
        plan = plan_in_child(options.target, options.flow)
        if isinstance(plan, int):
            return plan
        adopt_surroundings(plan)
        log_to_stderr()
        name = plan.options.name
        log.info("flow %s (%s) starts in pipeline process %d", name, options.target, os.getpid())

        def tell_ready() -> None:
            log.info("flow %s is ready for API processes: AQUEDUCT_PIPELINE=unix:%s", name, path)
            notifier.send("READY=1")

        server = PipelineServer(plan, listen(str(path)), None, tell_ready)
        del plan  # with the programs, which are in memory files soon
        try:
            run_pipeline(_run(server, notifier))
        except AqueductError as exc:
            log.error("flow %s could not be started: %s", name, exc, exc_info=exc)
            return START_FAILED
        log.info("flow %s has stopped", name)
    return 0


async def _run(server: PipelineServer, notifier: Notifier) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        notifier.send("STOPPING=1")
        server.stop()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    await server.run()
