"""What an open page costs the server: its processor time with and without one."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from example_app.service import Service, running_service

from .watched import APPLICATION, OPERATOR

SECONDS = 30.0

PAGES = (0, 1, 10, 0)

_TICKS = os.sysconf("SC_CLK_TCK")


def measure() -> None:
    """Print the share of a core that the server needs while pages are open, after some load, with nothing to do."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_service(APPLICATION, 0, {"STATUS_DIRECTORY": directory}) as service,
    ):
        service.wait_until_ready()
        httpx.post(f"{service.url}/load", timeout=60)  # there are errors and times to show
        for pages in PAGES:
            with opened(service, pages):
                print(f"{pages} pages: {share(service):.2%} of a core", flush=True)


def share(service: Service) -> float:
    """Return the processor time of the server's process, for each second."""
    begun, before = time.monotonic(), processor_time(service.process.pid)
    time.sleep(SECONDS)
    return (processor_time(service.process.pid) - before) / (time.monotonic() - begun)


def processor_time(pid: int) -> float:
    """Return the processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def opened(service: Service, pages: int) -> Iterator[None]:
    """Have pages open."""
    with httpx.Client(base_url=service.url, timeout=60, auth=OPERATOR) as http:
        ends = threading.Event()

        def follow(has_begun: threading.Event) -> None:
            with http.stream("GET", "/ops/events") as response:
                for _ in response.iter_lines():
                    has_begun.set()
                    if ends.is_set():
                        return

        events = [threading.Event() for _ in range(pages)]
        threads = [threading.Thread(target=follow, args=[event]) for event in events]
        for thread in threads:
            thread.start()
        for event in events:
            event.wait(60)
        yield
        ends.set()
        for thread in threads:
            thread.join()
