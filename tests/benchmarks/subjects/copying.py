"""How fast processes copy, read and receive bytes, all at the same time; tells MiB per second of the processor."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from ..processes import MIB
from ..subject import say

SIZE = 64 * MIB
"""Bytes of one copy: more than a cache of the processor holds."""

PIECE = 256 << 10
"""Bytes that are read from a socket at once, as uvloop does."""

SECONDS = 0.5
"""Processor time that each kind of work gets."""


def main(processes: int) -> None:
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        found = pool.map(measure, range(processes), chunksize=1)
    say({kind: median(each[kind] for each in found) for kind in found[0]})


def measure(_: int) -> dict[str, float]:
    """Return the MiB per second of each kind of work."""
    source, target = np.ones(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    one, other = bytes(source[: SIZE // 2]), bytes(source[SIZE // 2 :])

    def compare() -> None:
        assert one == other

    return {
        "copy": _speed(lambda: np.copyto(target, source), SIZE),
        "read": _speed(compare, SIZE),
        "receive": _receive(),
    }


def _speed(work: Callable[[], None], size: int) -> float:
    work()
    done, started = 0, time.process_time()
    while (spent := time.process_time() - started) < SECONDS:
        work()
        done += size
    return done / MIB / spent


def _receive() -> float:
    """Read from a connection what another process sends as fast as it can."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pid = os.fork()
        if not pid:
            _send(listener.getsockname())
        reader, _ = listener.accept()
    buffer = bytearray(PIECE)
    with reader:
        done, started = 0, time.process_time()
        while (spent := time.process_time() - started) < SECONDS:
            done += reader.recv_into(buffer)
    os.waitpid(pid, 0)
    return done / MIB / spent


def _send(address: tuple[str, int]) -> None:
    try:
        with socket.create_connection(address) as writer:
            piece = bytes(PIECE)
            while True:
                writer.sendall(piece)
    except ConnectionError:
        pass
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
