"""Whether processors that have nothing to do may fall asleep while something is measured."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

REQUEST = "/dev/cpu_dma_latency"
"""Where one asks Linux to answer within so many microseconds, for as long as one has it open (documentation of the
kernel, "PM Quality Of Service Interface"). Usually only root may."""

ASLEEP = "the processors fell asleep when they had nothing to do"


@contextlib.contextmanager
def awake() -> Iterator[str]:
    """Ask that no processor falls asleep.

    One of a virtual machine is given to the neighbours then, and whoever wakes it waits until they let it go: that
    changes by the minute and says nothing of what is compared. One of a real machine saves power and takes its time.

    Yields:
        Whether they stay awake, in words.
    """
    try:
        descriptor = os.open(REQUEST, os.O_WRONLY)
    except OSError as exc:
        yield f"{ASLEEP} ({exc.strerror}: {REQUEST})"
        return
    try:
        os.write(descriptor, struct.pack("i", 0))
        yield "the processors were kept awake"
    finally:
        os.close(descriptor)
