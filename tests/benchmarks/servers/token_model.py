"""The language model that every streaming server runs: it makes a token for each task in each step."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

from pydantic import BaseModel

TOKEN = "token"
MAX_BATCH = 32
BATCH_WAIT = 0.010
"""Seconds that a batch waits for further requests in packages in which none can join later."""

LONG_BATCH_WAIT = 0.050
"""The same for a server that needs longer to receive a full batch."""

REPORT = struct.Struct("d")
"""The message of `report_end`: the time on the clock of ``time.monotonic``."""


class Prompt(BaseModel):
    """A request.

    Attributes:
        count: Tokens that are wanted.
        step: Seconds that each step takes.
        report_to: Port to which the end of the generation is reported; 0: to none.
    """

    count: int
    step: float = 0.0
    report_to: int = 0


def run_step(seconds: float) -> None:
    """Take as long as a step of the model, which needs no processor of this machine."""
    if seconds:
        time.sleep(seconds)


def generate(count: int, step: float, report_to: int) -> Iterator[str]:
    """Make the tokens of one task."""
    try:
        for _ in range(count):
            run_step(step)
            yield TOKEN
    finally:
        report_end(report_to)


def report_end(port: int) -> None:
    """Tell a port of this machine that a generation ends now."""
    if port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(REPORT.pack(time.monotonic()), ("127.0.0.1", port))
