"""What the end of the interpreter and a fork of this process mean for flows that have been started."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  # its atexit function joins processes, so it must be older than the one below
import os
from collections.abc import Callable
from typing import NamedTuple


class _Started(NamedTuple):
    let_go: Callable[[], None]
    forget: Callable[[], None]


_started: dict[object, _Started] = {}
"""Also flows that nothing else refers to any more: their workers must be let go all the same."""

_kept: list[object] = []
"""What the parent of this process has made. Kept, so that nothing in it is ended here by the garbage collector."""


def note_start(flow: object, let_go: Callable[[], None], forget: Callable[[], None]) -> None:
    """Note that a flow is started.

    Args:
        flow: The flow.
        let_go: Called at the end of the interpreter.
        forget: Called in a fork of this process.
    """
    _started[flow] = _Started(let_go, forget)


def note_end(flow: object) -> None:
    """Note that a flow has been stopped."""
    _started.pop(flow, None)


def keep_for_good(thing: object) -> None:
    """Keep what the parent of this process has made."""
    _kept.append(thing)


@atexit.register
def _let_go() -> None:
    # A flow that was never stopped must not keep the interpreter: its workers leave when their channels close.
    for started in list(_started.values()):
        started.let_go()


def _forget() -> None:
    for started in _started.values():
        started.forget()
    _started.clear()


os.register_at_fork(after_in_child=_forget)

