"""The settings of a SocketFlow: the environment variables of the package aqueduct."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..engine.shared.socket_path import check_directory, check_path, host_directory
from ..exceptions import ConfigurationError, StartError
from ..logger import log

DEFAULT_PATH = "/tmp/flow.sock"

_LIMITS = ("FLOW_PROCESS_TIMEOUT", "SOCKET_POOL_READ_TIMEOUT")
_IGNORED = {
    "SOCKET_SERVER_IDLE_TIMEOUT": "a connection lasts as long as its process",
    "SOCKET_SERVER_BACKLOG_SIZE": "a process connects once",
    "SOCKET_POOL_SIZE": "a process has one connection for all its tasks",
    "SOCKET_POOL_CONNECT_TIMEOUT": "a process connects once, within start_timeout of the flow",
    "SOCKET_POOL_CONNECTION_RETRIES": "a lost connection is opened again until the pipeline is back",
}


@dataclass(frozen=True)
class SocketSettings:
    """What the environment says of a SocketFlow.

    Attributes:
        path: Where its socket is.
        most_time: Seconds that a call may take at most, whatever it is given.
    """

    path: Path
    most_time: float

    @classmethod
    def read(cls, name: str) -> SocketSettings:
        """Read the variables, and log which of them have no effect.

        Args:
            name: Name of the SocketFlow; the variables begin with it and an underscore, also if it is empty.

        Raises:
            ConfigurationError: A variable has a value that it cannot have.
            StartError: There is no directory for the socket.
        """
        for variable, reason in _IGNORED.items():
            if f"{name}_{variable}" in os.environ:
                log.info("%s_%s has no effect: %s", name, variable, reason)
        path = os.environ.get(f"{name}_SOCKET_PATH", DEFAULT_PATH)
        check_path(path)
        return cls(_in_own_directory(Path(path)), min(_limit(f"{name}_{limit}") for limit in _LIMITS))


def _limit(variable: str) -> float:
    text = os.environ.get(variable)
    if text is None:
        return math.inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ConfigurationError(f"{variable} must be a number of seconds above 0, got {text!r}")
    return seconds


def _in_own_directory(path: Path) -> Path:
    """Return a path whose directory only this user can enter, as the default one is in /tmp."""
    try:
        check_directory(path.parent)
    except FileNotFoundError:
        return path  # `SocketFlow.preload` makes it
    except StartError:
        return host_directory() / "socket-flow" / path.name
    return path
