"""The script with which a worker process starts: prepares the interpreter, then runs the worker.

It runs before ``sys.path`` is set, so it imports the standard library only. It replaces ``multiprocessing.spawn``, with
three differences: there is no resource tracker process; the main module of the application is imported on first use
only (under ``uvicorn main:app`` that module is uvicorn's script, which no worker needs); and a worker may start child
processes of its own.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # Python has put this directory first; its modules would hide modules of the standard library.
    del sys.path[0]

import pickle
import signal
import socket
import struct
from typing import Any

IMPORTED = "AQUEDUCT_IMPORTED"
"""The variable that names libraries of the forkserver, from the fork until `forked`, which has no other way to know."""

_LENGTH = struct.Struct("<I")
_prelude: dict[str, Any] = {}


def pack_prelude(is_template: bool = False, is_relayed: bool = False) -> bytes:
    """Return what a worker needs to prepare its interpreter; it is sent before all frames.

    Args:
        is_template: Whether it is for a template process, which is no worker.
        is_relayed: Whether another process than this one starts the worker, one with a forkserver of its own.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    body = pickle.dumps(
        {
            "path": sys.path,
            "argv": sys.argv,
            "is_template": is_template,
            "is_relayed": is_relayed,
            "main_name": spec.name if spec is not None else None,
            "main_path": getattr(main, "__file__", None) if spec is None else None,
        }
    )
    return _LENGTH.pack(len(body)) + body


def spawned(socket_fd: int, *descriptors: int) -> None:
    """Run a worker, or a template, in a new interpreter that leads a process group.

    Args:
        socket_fd: Descriptor of the worker's end of the channel.
        *descriptors: The other descriptors, as in `fastapi_aqueduct.engine.workers.process.Descriptors`; for a template
            as in `fastapi_aqueduct.engine.child.template.main`.
    """
    _set_signals()
    sock = socket.socket(fileno=socket_fd)
    _follow(_read_prelude(sock))
    if _prelude["is_template"]:
        from fastapi_aqueduct.engine.child import template

        template.main(prepare_fork, sock, *descriptors)
    else:
        from fastapi_aqueduct.engine.child.main import main

        main(sock, *descriptors)


def forked(sock: socket.socket, descriptors: list[int]) -> None:
    """Run a worker in a process that the forkserver has forked, where the main module is imported.

    Args:
        sock: The worker's end of the channel.
        descriptors: The other descriptors, as in `fastapi_aqueduct.engine.workers.process.Descriptors`.
    """
    import os

    imported = os.environ.pop(IMPORTED, "")
    prelude = prepare_fork(sock, {})
    if prelude["is_relayed"]:
        # Else multiprocessing has done it, with the main module of the process that has the forkserver.
        _follow(prelude)
    from fastapi_aqueduct.engine.child.main import main

    main(sock, *descriptors, imported=imported)


def prepare_fork(sock: socket.socket, environment: dict[str, str]) -> dict[str, Any]:
    """Prepare a forked process, where the main module is imported already, for a worker.

    Args:
        sock: The worker's end of the channel.
        environment: Environment variables to set.

    Returns:
        The prelude.
    """
    import os

    os.setpgid(0, 0)
    _set_signals()
    os.environ.update(environment)
    return _read_prelude(sock)


def detach(sent: Any) -> int:
    """Return the descriptor in a ``multiprocessing.reduction.DupFd``."""
    fd: int = sent.detach()
    return fd


def _follow(prelude: dict[str, Any]) -> None:
    """Make this interpreter like the one that has made the prelude."""
    _prelude.update(prelude)
    sys.path[:] = prelude["path"]
    sys.argv[:] = prelude["argv"]
    # Pickles of objects from the main module have either name; this module imports it when it is asked for one.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = sys.modules[__name__]


def _set_signals() -> None:
    # The server decides when workers stop. A fork of the forkserver was just now in the group that gets Ctrl-C, and a
    # process manager may send SIGINT to each process of a container. The signal was blocked while the process was
    # started, so none arrives before this line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The worker's group is a background group of the terminal: a log line under `stty tostop` would stop the worker,
    # and so would a read of /dev/tty. With these signals ignored the line is written and the read fails.
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
            sys.exit(0)  # the server ended while this process started
        data += piece
    return data


def __getattr__(name: str) -> Any:
    """Import the application's main module when one of its names is looked up (PEP 562)."""
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
    spawned(*map(int, sys.argv[1:-1]))  # the last argument is the label in process lists
