"""The command that starts another interpreter like this one."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from ...exceptions import ConfigurationError
from ..child import bootstrap

WORKER = "--aqueduct-worker"
"""First argument of a frozen application that runs as a worker; its descriptors and a label follow."""

_LETTERS = {
    "debug": "d",
    "dont_write_bytecode": "B",
    "no_site": "S",
    "optimize": "O",
    "verbose": "v",
    "bytes_warning": "b",
    "quiet": "q",
}
_ISOLATION = {"ignore_environment": "E", "no_user_site": "s", "safe_path": "P"}

_supported: list[bool] = []
"""Not empty once `freeze_support` was called."""


def freeze_support() -> None:
    """Let an application that was frozen into an executable (PyInstaller, cx_Freeze) have workers.

    Such an executable is its own interpreter: a worker is another run of it. Call this first under
    ``if __name__ == "__main__":``, as `multiprocessing.freeze_support`, which it includes. In a worker it does not
    return; everywhere else it does nothing.
    """
    _supported.append(True)
    multiprocessing.freeze_support()
    if _is_frozen() and sys.argv[1:2] == [WORKER]:
        bootstrap.spawned(*map(int, sys.argv[2:-1]))
        sys.exit()


def check_interpreter() -> None:
    """Refuse to start workers where each would run the application, which starts workers, without end.

    Raises:
        ConfigurationError: The application is frozen and has not called `freeze_support`.
    """
    if _is_frozen() and not _supported:
        raise ConfigurationError(
            f"this application is frozen into {sys.executable}, and all of it would run in place of each worker: call "
            'fastapi_aqueduct.freeze_support() first under `if __name__ == "__main__":`, before the flow is started'
        )


def worker_command() -> list[str]:
    """Return the command that starts a worker, without the arguments: its descriptors and a label."""
    if _is_frozen():
        return [sys.executable, WORKER]
    return [sys.executable, *interpreter_options(), str(Path(bootstrap.__file__))]


def interpreter_options() -> list[str]:
    """Return the options of this interpreter that a worker should have as well.

    The standard library has such a list for multiprocessing, without a public name. Left out: ``-i``, which would keep
    a worker alive, and ``-u``, which is not in ``sys.flags``.
    """
    flags = sys.flags
    options = [f"-{letter * getattr(flags, name)}" for name, letter in _LETTERS.items() if getattr(flags, name)]
    if flags.isolated:
        options.append("-I")  # the other three with it
    else:
        options += [f"-{letter}" for name, letter in _ISOLATION.items() if getattr(flags, name)]
    options += [f"-W{option}" for option in _warning_options()]
    return options + [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()]


def _warning_options() -> list[str]:
    # Without those that -b and -X dev have added, and will add in the worker.
    options = list(sys.warnoptions)
    implied = {1: "default::BytesWarning", 2: "error::BytesWarning"}.get(sys.flags.bytes_warning)
    for option in (implied, "default" if sys.flags.dev_mode else None):
        if option in options:
            options.remove(option)
    return options


def _is_frozen() -> bool:
    return bool(getattr(sys, "frozen", False))
