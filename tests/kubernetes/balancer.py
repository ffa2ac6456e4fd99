"""nginx in front of the ready pods, as an ingress controller runs it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from ..edge.proxy import NGINX
from ..support import DEADLINE, wait_until

ENDPOINT_DELAY = 1.0
"""Seconds from a change of a pod until the proxy has its new list: the way through the API server of a cluster."""

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    # In memory: the processes of a root's nginx are another user's, and cannot write here.
    client_body_buffer_size 64k;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream pods {{
        least_conn;
        {servers}
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://pods;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 30s;
            # A pod that dies: its requests go to another one. They can be repeated, and their bodies are at hand.
            proxy_next_upstream error timeout non_idempotent;
        }}
    }}
}}
"""


class Balancer:
    """A running nginx.

    Args:
        directory: Where its configuration and its log are.
        port: Where it listens.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._directory = directory
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: frozenset[int] = frozenset()

    def send_to(self, ports: Collection[int]) -> None:
        """Send further requests to these pods."""
        if frozenset(ports) != self._ports:
            self._ports = frozenset(ports)
            self._configure()
            if self._process is not None:
                self._process.send_signal(signal.SIGHUP)

    def failed(self) -> set[int]:
        """Return the ports where a request has failed, so that it was sent to another one or answered with an error."""
        log = (self._directory / "log").read_text()
        return {int(port) for port in re.findall(r'upstream: "http://127\.0\.0\.1:(\d+)', log)}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it until the end of the context."""
        assert NGINX is not None
        self._configure()
        configuration, log = self._directory / "nginx.conf", self._directory / "log"
        with subprocess.Popen([NGINX, "-p", self._directory, "-c", configuration, "-e", log]) as self._process:
            try:
                assert wait_until(self._is_open, DEADLINE), log.read_text()
                yield
            finally:
                self._process.terminate()

    def _configure(self) -> None:
        servers = [f"server 127.0.0.1:{port};" for port in sorted(self._ports)] or ["server 127.0.0.1:1 down;"]
        text = CONFIGURATION.format(directory=self._directory, port=self._port, servers="\n        ".join(servers))
        (self._directory / "nginx.conf").write_text(text)

    def _is_open(self) -> bool:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False
