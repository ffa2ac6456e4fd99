"""The signals to stop, before what handles them while a command serves is there."""

from __future__ import annotations

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_on_signals() -> None:
    """Exit with status 0 on a signal to stop: as process 1 of a container it would be ignored."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
