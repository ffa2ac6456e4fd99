"""Started flows at the exit of the interpreter and in a fork of this process."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import NamedTuple


class _Started(NamedTuple):
    end_at_exit: Callable[[], None]
    forget: Callable[[], None]


_started: dict[object, _Started] = {}
"""Keeps flows that nothing else refers to: their workers must end too."""

_kept: list[object] = []
"""Objects of the parent process, kept so that the garbage collector ends nothing of them here."""


def note_start(flow: object, end_at_exit: Callable[[], None], forget: Callable[[], None]) -> None:
    """Register a flow that starts.

    Args:
        flow: The flow.
        end_at_exit: Called at the exit of the interpreter.
        forget: Called in a fork of this process.
    """
    _started[flow] = _Started(end_at_exit, forget)


def note_end(flow: object) -> None:
    """Unregister a flow that has stopped."""
    _started.pop(flow, None)


def keep_for_good(thing: object) -> None:
    """Keep an object of the parent process."""
    _kept.append(thing)


@atexit.register
def _end_at_exit() -> None:
    # A flow that was never stopped must not block the exit: its workers end when their channels close.
    for started in list(_started.values()):
        started.end_at_exit()


def _forget() -> None:
    for started in _started.values():
        started.forget()
    _started.clear()


os.register_at_fork(after_in_child=_forget)
