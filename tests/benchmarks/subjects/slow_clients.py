"""Clients that send a byte a second each to a server, until stdin ends; tells when all have begun."""

from __future__ import annotations

import sys
import threading

from ...slow_clients import SlowClient, SlowClients, allow_descriptors
from ..subject import say, wait_for_end


def main(port: int, path: str, count: int, size: int) -> None:
    allow_descriptors(2 * count)
    with SlowClients(SlowClient(port, path, size) for _ in range(count)) as clients:
        threading.Thread(target=clients.drip, args=[1e9], daemon=True).start()
        say(count)
        wait_for_end()
        if clients.statuses:
            raise RuntimeError(f"slow clients were answered: {clients.statuses}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
