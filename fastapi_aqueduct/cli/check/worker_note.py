"""What a worker notes about itself, before ``on_start`` and at its end. Imports what a worker has imported already."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from ..memory import own_part

_EDGE = ("fastapi.", "fastapi_aqueduct.asgi.")
"""Packages that no worker needs, with a dot."""

_OWN = ("fastapi", "starlette", "fastapi_aqueduct")


class Note(NamedTuple):
    """What a worker has noted.

    Attributes:
        at: When, on the clock of ``time.monotonic``.
        private_memory: Bytes of its private memory; None where the system does not tell.
        python_threads: Its threads of Python, which are those of the engine.
        fastapi_importers: Modules that have names of FastAPI; empty if it is not imported.
    """

    at: float
    private_memory: int | None
    python_threads: int
    fastapi_importers: list[str]


class NoteWriter:
    """Takes the place of ``worker_init``, and calls it: writes a note before it, and one when the worker ends.

    Args:
        directory: Where notes are written, one file for each process and time.
        function: The ``worker_init`` of the flow; None if it has none.
    """

    def __init__(self, directory: Path, function: Callable[[], object] | None) -> None:
        self._directory = directory
        self._function = function
        self.__qualname__ = getattr(function, "__qualname__", "worker_init")  # for errors

    def __call__(self) -> object:
        """Write the first note; return what ``worker_init`` returns, which may have to be awaited."""
        self.write("start")
        atexit.register(self.write, "end")
        return None if self._function is None else self._function()

    def write(self, when: str) -> None:
        """Write a note.

        Args:
            when: ``"start"`` or ``"end"``.
        """
        note = Note(time.monotonic(), own_memory(), threading.active_count(), fastapi_importers())
        with contextlib.suppress(OSError):  # the check was killed, or runs on another machine
            (self._directory / f"{os.getpid()}.{when}").write_text(json.dumps(note))


def read_note(directory: Path, pid: int, when: str) -> Note | None:
    """Read a note of a worker; None if it has written none.

    Args:
        directory: As for `NoteWriter`.
        pid: Its process id.
        when: As for `NoteWriter.write`.
    """
    try:
        return Note(*json.loads((directory / f"{pid}.{when}").read_text()))
    except (OSError, ValueError):
        return None


def own_memory() -> int | None:
    """Return the bytes of private memory of this process; where the system does not tell, the most it has had."""
    found = own_part(os.getpid())
    if found is None and sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found


def fastapi_importers() -> list[str]:
    """List the modules of this process that have names of FastAPI, those of the user first.

    Empty if FastAPI is not imported.
    """
    if "fastapi" not in sys.modules:
        return []
    found = [name for name, module in list(sys.modules.items()) if _is_users(name) and _has_names(module)]
    installed = os.sep + "site-packages" + os.sep
    own = [name for name in found if installed not in (getattr(sys.modules[name], "__file__", None) or "")]
    return own or found or ["another package"]


def _is_users(name: str) -> bool:
    return name.partition(".")[0] not in _OWN and name != "__mp_main__"


def _has_names(module: ModuleType) -> bool:
    return any(f"{place}.".startswith(edge) for place in _places(module) for edge in _EDGE)


def _places(module: ModuleType) -> Iterator[Any]:
    """Yield the modules from which the names of a module come."""
    for value in list(vars(module).values()) if isinstance(module, ModuleType) else ():
        # Not an attribute of any object: a lazy one may import, or raise.
        if isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(value, FunctionType | type):
            yield value.__module__
        else:
            yield type(value).__module__
