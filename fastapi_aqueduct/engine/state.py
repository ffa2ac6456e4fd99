"""The state of a flow, and the errors of calls that it does not allow."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum

from ..exceptions import ForkedError, NotRunningError
from ..logger import log


class FlowState(StrEnum):
    """The state of a flow."""

    STOPPED = "stopped"
    STARTING = "starting"
    STEPS_INITIALIZED = "steps_initialized"
    RUNNING = "running"
    STOPPING = "stopping"


def not_running(name: str, state: FlowState) -> NotRunningError:
    """Return the error for a call of a flow that does not run.

    Args:
        name: Name of the flow.
        state: Its state.
    """
    advice = {
        FlowState.STOPPED: "start it with `async with flow:`, with the lifespan of Aqueduct, or with flow.start()",
        FlowState.STARTING: "wait until its start has returned",
        FlowState.STEPS_INITIALIZED: "its workers are ready, and flow.start_inited() has it accept tasks",
        FlowState.STOPPING: "it accepts no more tasks",
        FlowState.RUNNING: "",
    }
    return NotRunningError(f"flow {name} is {state}: {advice[state]}")


@dataclass
class Origin:
    """The process that has started a flow.

    Attributes:
        pid: Its process id.
        is_forked: Whether this process is a fork of it.
    """

    pid: int = field(default_factory=os.getpid)
    is_forked: bool = False
    _has_told: bool = False

    def error(self, name: str) -> ForkedError:
        """Return the error for a call in the fork.

        Args:
            name: Name of the flow.
        """
        message = (
            f"flow {name} was started in process {self.pid}, and this is process {os.getpid()}, a fork "
            "of that: its workers answer only the process that has started them. Start the flow after the fork: with "
            "the lifespan of Aqueduct, not with flow.start() at import (gunicorn --preload)"
        )
        if not self._has_told:
            log.error("%s", message)  # not every server logs what an endpoint raises
            self._has_told = True
        return ForkedError(message)
