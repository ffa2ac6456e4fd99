"""Keeps idle processors awake during a measurement, where the system allows it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

REQUEST = "/dev/cpu_dma_latency"
"""The file that takes the longest allowed wake-up time, in microseconds, which holds while the file is open
(documentation of the kernel, "PM Quality Of Service Interface"). Usually only root may open it."""

ASLEEP = "the processors fell asleep when they had nothing to do"


@contextlib.contextmanager
def awake() -> Iterator[str]:
    """Ask that no processor falls asleep.

    A sleeping processor of a virtual machine serves the neighbours, and a wake-up waits until they return it: that
    changes by the minute and says nothing about the packages. One of a real machine saves power and wakes slowly.

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
