"""A pipeline process without a pipeline: what `fastapi_aqueduct.engine.shared.rendezvous` asks of one.

usage: python -m tests.shared.pipeline_process PATH LOCK_FD DIRECTORY

It does what the file DIRECTORY/act says when it starts: "serve", "fail", "exit", "hang", or "leave N": close the first
connections without an answer. It adds a line to DIRECTORY/starts and to DIRECTORY/hellos.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.shared.handshake import (
    NoAnswer,
    ServerEnd,
    Welcome,
    receive_hello,
    send_failure,
    send_welcome,
)
from fastapi_aqueduct.exceptions import StartError

STEPS = ("detect", "read")


def launcher(directory: Path) -> Callable[[str, int], subprocess.Popen[bytes]]:
    """Return a function that starts this program."""

    def launch(path: str, lock_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, path, str(lock_fd), str(directory)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock_fd,),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    return launch


def main(path: str, directory: Path) -> None:
    """Run the program."""
    act, _, number = (directory / "act").read_text().partition(" ")
    note(directory / "starts", str(os.getpid()))
    if act == "exit":
        sys.exit(3)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        ends = []
        leaves = int(number or 0)
        while True:
            sock, _ = listener.accept()
            if leaves:
                leaves -= 1
                sock.close()
                continue
            with contextlib.suppress(NoAnswer):
                end = receive_hello(sock)
                note(directory / "hellos", str(end.hello.pid))
                if act == "fail":
                    fail(end, listener, directory)
                if act == "serve" or act == "leave":
                    answer(end)
                ends.append(end)


def fail(end: ServerEnd, listener: socket.socket, directory: Path) -> None:
    """Send the failure to all who wait, and exit."""
    ends = [end]
    while len(ends) < int((directory / "waiting").read_text()):
        ends.append(receive_hello(listener.accept()[0]))
    for end in ends:
        send_failure(end, StartError("a worker of read in flow ocr failed: no weights", step="read"))
    sys.exit(1)


def answer(end: ServerEnd) -> None:
    with open(os.devnull) as null:
        welcome = Welcome(Layout(12, 1 << 20), 4, {}, STEPS, os.getpid(), {})
        send_welcome(end, welcome, null.fileno(), null.fileno())


def note(file: Path, line: str) -> None:
    with file.open("a") as opened:
        opened.write(f"{line}\n")


if __name__ == "__main__":
    os.set_inheritable(int(sys.argv[2]), False)
    main(sys.argv[1], Path(sys.argv[3]))
