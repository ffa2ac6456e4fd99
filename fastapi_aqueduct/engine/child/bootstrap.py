"""The first lines a worker runs: makes the interpreter like the one that started it, then becomes the worker.

Run as a script, so it must work before ``sys.path`` is right: standard library only. It does what
``multiprocessing.spawn`` does with three differences: there is no resource tracker process; the main module of the
application is imported only when something in it is needed (under ``uvicorn main:app`` that module is uvicorn's
script, which no worker needs); and a worker may start child processes of its own.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # Python put this directory in front; its modules would hide those of the standard library.
    del sys.path[0]

import pickle
import signal
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")
_prelude: dict[str, Any] = {}


def pack_prelude() -> bytes:
    """Describe this interpreter to a worker; sent before anything else."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    body = pickle.dumps(
        {
            "path": sys.path,
            "argv": sys.argv,
            "main_name": spec.name if spec is not None else None,
            "main_path": getattr(main, "__file__", None) if spec is None else None,
        }
    )
    return _LENGTH.pack(len(body)) + body


def spawned(socket_fd: int, *descriptors: int) -> None:
    """Become a worker in a fresh interpreter, which leads a process group already.

    Args:
        socket_fd: Descriptor of the worker's end of the channel.
        *descriptors: The others, as in `fastapi_aqueduct.engine.workers.process.Descriptors`.
    """
    _set_signals()
    sock = socket.socket(fileno=socket_fd)
    _prelude.update(_read_prelude(sock))
    sys.path[:] = _prelude["path"]
    sys.argv[:] = _prelude["argv"]
    # Objects that were pickled in the main module carry either name.
    sys.modules["__mp_main__"] = sys.modules["__main__"]
    from fastapi_aqueduct.engine.child.main import main

    main(sock, *descriptors)


def forked(sock: socket.socket, descriptors: list[int], environment: dict[str, str]) -> None:
    """Become a worker in a process made by the forkserver, which has imported the main module already.

    Args:
        sock: The worker's end of the channel.
        descriptors: The others, as in `fastapi_aqueduct.engine.workers.process.Descriptors`.
        environment: Variables to set.
    """
    import os

    os.setpgid(0, 0)
    _set_signals()
    os.environ.update(environment)
    _read_prelude(sock)
    from fastapi_aqueduct.engine.child.main import main

    main(sock, *descriptors)


def detach(sent: Any) -> int:
    """Unwrap a descriptor that came as ``multiprocessing.reduction.DupFd``."""
    fd: int = sent.detach()
    return fd


def _set_signals() -> None:
    # The server decides when workers stop. A worker of the forkserver was in the group that gets Ctrl-C until a moment
    # ago, and a supervisor may send SIGINT to each process of a container. The signal was blocked while the process was
    # made, so none could arrive before this line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own is a background group of the terminal: a log line under `stty tostop` would stop the worker,
    # and so would a read of /dev/tty. With these ignored the line is written and the read fails.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)


def _read_prelude(sock: socket.socket) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(_receive(sock, _LENGTH.size))
    prelude: dict[str, Any] = pickle.loads(_receive(sock, length))
    return prelude


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            sys.exit(0)  # the server went away while this process started
        data += piece
    return data


def __getattr__(name: str) -> Any:
    """Import the application's main module when something in it is looked up (PEP 562)."""
    if not _prelude or name.startswith("__"):
        raise AttributeError(name)
    from multiprocessing import spawn

    main_name, main_path = _prelude["main_name"], _prelude["main_path"]
    if main_name is not None:
        spawn.prepare({"init_main_from_name": main_name})
    elif main_path is not None:
        spawn.prepare({"init_main_from_path": main_path})
    module = sys.modules["__main__"]
    if module.__dict__ is globals():
        raise AttributeError(name)
    return getattr(module, name)


if __name__ == "__main__":
    spawned(*map(int, sys.argv[1:-1]))  # the last is the label, for process lists
