"""A Ray cluster of two nodes on this machine, which imitate two machines."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ..support import DEADLINE, ROOT, wait_until

NEAR, FAR = "127.0.0.2", "127.0.0.3"
"""The addresses of the nodes, and the names of the resource that each has. Ray would replace 127.0.0.1."""

MARK = "AQUEDUCT_TEST_NODE"
"""The variable in the environment of all processes of a node."""


class Cluster:
    """Two nodes, which end with `stop`.

    Attributes:
        address: The address of the head.
    """

    def __init__(self) -> None:
        self.address = f"{NEAR}:{_free_port()}"
        self._directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray makes sockets in it, whose paths are short
        self._token = secrets.token_hex(8)

    def start(self) -> None:
        """Start both nodes."""
        port = self.address.rpartition(":")[2]
        head = ["--head", "--port", port, "--include-dashboard=false", "--temp-dir", self._directory]
        self._start_node(NEAR, head)
        self.start_far()

    def start_far(self) -> None:
        """Start the second node, at first or again."""
        self._start_node(FAR, ["--address", self.address])

    def kill_far(self) -> None:
        """Kill all processes of the second node, as if its machine had lost power."""
        self._kill(FAR)

    def stop(self) -> None:
        """End both nodes."""
        for node in (FAR, NEAR):
            self._kill(node)
        shutil.rmtree(self._directory, ignore_errors=True)

    def pids(self) -> list[int]:
        """List all processes of both nodes."""
        return [pid for node in (NEAR, FAR) for pid in self._pids(node)]

    def _start_node(self, node: str, options: list[str]) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, "--node-ip-address", node]
        command += ["--num-cpus", "4", "--resources", f'{{"{node}": 4}}', "--object-store-memory", "160000000"]
        environment = {
            **os.environ,
            MARK: f"{self._token}-{node}",
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
        }
        done = subprocess.run([*command, "--disable-usage-stats"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def _kill(self, node: str) -> None:
        def is_gone() -> bool:
            pids = self._pids(node)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        assert wait_until(is_gone, DEADLINE)

    def _pids(self, node: str) -> list[int]:
        mark = f"{MARK}={self._token}-{node}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((NEAR, 0))
        port: int = sock.getsockname()[1]
        return port
