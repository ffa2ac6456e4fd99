"""What an upload in flight adds to the memory of all processes of a server."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .processes import MIB, Footprint, tree
from .report import Promise, Report, Series
from .subject import DEADLINE, Subject

ROUNDS = 7
SIZE = 16 * MIB
COUNTS = (1, 4, 8)
MOST = 1.1


def measure() -> Report:
    """Start a server for each round and compare it with itself before its first upload."""
    before: list[float] = []
    added: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        with _Server() as server:
            empty = server.footprint()
            before.append(empty / MIB)
            for count in COUNTS:
                with server.holding(count):
                    added[count].append((server.footprint() - empty) / (count * SIZE))
    return Report(
        title=f"memory: uploads of {SIZE // MIB} MiB in flight, all processes of a uvicorn server together",
        notes=[
            "one flow of two steps: one reads every byte, one waits for a signal; PSS, shared memory counted once",
            "added is the growth since before the first upload of that server, divided by the bytes in flight",
        ],
        rows=[
            Series("before the first upload, MiB", before, digits=1),
            *(Series(f"added by {_uploads(count)}, MiB", _mib(added[count], count), digits=1) for count in COUNTS),
        ],
        promises=[
            Promise(Series(f"added by {_uploads(count)} / its size", added[count], digits=3), limit=MOST)
            for count in COUNTS
        ],
    )


def _uploads(count: int) -> str:
    return "1 upload" if count == 1 else f"{count} uploads"


def _mib(ratios: list[float], count: int) -> list[float]:
    return [ratio * count * SIZE / MIB for ratio in ratios]


class _Server:
    """A uvicorn server whose flow keeps its tasks until it is allowed to finish them."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Server:
        with self._stack as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            # The lock of this file holds the handlers, which wait for it without polling.
            self._gate = stack.enter_context(open(Path(directory, "gate"), "wb"))
            self._subject = stack.enter_context(Subject("-m", f"{__package__}.subjects.upload_server", self._gate.name))
            self._port = self._subject.read()
            self._send("POST", "/upload", b"warm")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def footprint(self) -> int:
        """Return the bytes that the server and its workers use."""
        return Footprint(tree(self._subject.pid)).total

    @contextlib.contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Keep ``count`` uploads in flight, each read once by a worker."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        body = bytes(SIZE)
        with ThreadPoolExecutor(count) as pool:
            try:
                uploads = [pool.submit(self._send, "POST", "/upload", body) for _ in range(count)]
                self._wait_until_held(count)
                yield
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
            sizes = [upload.result() for upload in uploads]
        if sizes != [SIZE] * count:
            raise RuntimeError(f"of {count} uploads of {SIZE} bytes came: {sizes}")
        self._wait_until_held(0)

    def _wait_until_held(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while (held := self._send("GET", "/held")) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{held} of {count} uploads are held after {DEADLINE:.0f} s")
            time.sleep(0.02)

    def _send(self, method: str, path: str, body: bytes | None = None) -> Any:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
        return json.loads(content)
