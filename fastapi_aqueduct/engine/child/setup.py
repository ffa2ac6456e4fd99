"""The engine's part of what a worker process receives at its start.

A worker receives three parts, one after the other:

* the prelude makes its interpreter like the one in which the user's code was imported; `bootstrap` writes and reads it;
* the setup is the engine's: to read it imports nothing of the user's, so any process of the engine can make one;
* the program is the user's: the pickled handler and conditions, which only the worker itself opens (`program`).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from ...worker import WorkerInfo
from ..memory.layout import Layout
from ..wire.log_levels import LogLevels

KEPT = 1 << 30
"""Bytes of freed memory that a worker keeps by default. Models allocate and free buffers of many megabytes in each
call; a worker has no other use for that memory."""


@dataclass(frozen=True)
class Setup:
    """The settings of one worker.

    Attributes:
        step: Index of its step.
        name: Name of its step.
        may_run_again: Whether a batch whose handler raised is run again, one task at a time.
        layout: The division of the shared memory.
        region: The number of the worker's region.
        blocks: Blocks that an earlier worker left in that region: size by offset.
        busy_poll: Seconds to stay awake when there is nothing to do.
        is_continuous: Whether tasks join a call of the handler that is under way.
        places: Calls of the handler that are under way at once; 0: one after the other.
        handle_timeout: Seconds that one call of the handler may take.
        check_timeout: Seconds that one check may take.
        kept: Bytes of freed memory that the worker keeps for its next batch until it is idle.
        log_levels: The levels of the loggers of the API process; None if log records are not forwarded.
        info: What user code can know about the worker; its process id is known in the worker only.
        has_options: Whether the step declares `WorkerOptions`.
    """

    step: int
    name: str
    may_run_again: bool
    layout: Layout
    region: int
    blocks: dict[int, int]
    info: WorkerInfo
    busy_poll: float = 0.0
    kept: int = KEPT
    is_continuous: bool = False
    places: int = 0
    handle_timeout: float | None = None
    check_timeout: float | None = None
    log_levels: LogLevels | None = None
    has_options: bool = False

    def pack(self) -> bytes:
        """Return the payload of a frame of kind SETUP."""
        return pickle.dumps(self, 5)

    @staticmethod
    def unpack(payload: bytes) -> Setup:
        """Read the payload of a frame of kind SETUP."""
        setup: Setup = pickle.loads(payload)
        return setup
