"""What travels between a stand-in and its actor: the frames of a channel, and the blocks that their tasks refer to."""

from __future__ import annotations

import pickle
import sys
from typing import Any, NamedTuple

from ....exceptions import NotShareable
from ...wire.frames import Kind

GROUPS = {"push": 1, "pull": 1}
"""The threads of an actor beside the one that runs the handler, by the method for which each is."""

PULLS = 2
"""Calls of `pull` that wait in an actor, so that the next answer need not wait for one."""

Frames = list[tuple[Kind, bytes]]


class Buffer:
    """Bytes that are pickled without a copy.

    Args:
        view: The bytes.
    """

    __slots__ = ("view",)

    def __init__(self, view: Any) -> None:
        self.view = view

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Buffer, (pickle.PickleBuffer(self.view),)


class Message(NamedTuple):
    """What a stand-in sends.

    Attributes:
        frames: Frames for the worker.
        buffers: The contents of the blocks that they refer to, in the same order.
        sent_at: The time on the clock of ``time.monotonic`` of the stand-in's machine.
    """

    frames: Frames
    buffers: list[Buffer]
    sent_at: float


class Report(NamedTuple):
    """What an actor sends.

    Attributes:
        frames: Frames of the worker. A block that is marked as shared is one of the task as it came, which the stand-in
            has under that offset.
        buffers: The contents of all others, in the same order.
        call: The task with which the last call of the handler began, and for how many seconds it has run; infinity if
            none runs.
        has_ended: Whether the worker has ended.
    """

    frames: Frames
    buffers: list[Buffer]
    call: tuple[int, float]
    has_ended: bool


def package_version() -> str:
    """Return the version of this package in this process."""
    version: str = sys.modules[__name__.partition(".")[0]].__version__
    return version


def not_shareable() -> NotShareable:
    """Return the error for a field of which an actor would change a copy."""
    return NotShareable(
        "share_value() cannot be used with a step whose handler runs in an actor: on another machine there is no "
        "common memory, so what one process writes no other one sees; leave it out, large fields travel without it"
    )
