"""nginx in front of services, once as it is by default and once as it should be for uploads."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..support import DEADLINE, wait_until

# Debian puts it where only root looks.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

BUFFERING = ("on", "off")
"""Of requests and of answers."""

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;

    # The application has the say.
    client_max_body_size 0;
    # Short, for the sake of the test of it.
    client_header_timeout 1s;
    # Connections to the service are kept and used again.
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    {servers}
}}
"""

SERVER = """
    upstream {name}_{buffering} {{ server 127.0.0.1:{upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_request_buffering {buffering};
        proxy_buffering {buffering};
        location / {{ proxy_pass http://{name}_{buffering}; }}
    }}
"""


class Proxy:
    """A running nginx.

    Args:
        directory: Where its configuration and its log are.
        ports: Where it listens, for each upstream and each kind of buffering.
    """

    def __init__(self, directory: Path, ports: Mapping[tuple[str, str], int]) -> None:
        self._directory = directory
        self._ports = ports

    def url(self, upstream: str, buffering: str) -> str:
        """Tell where it listens."""
        return f"http://127.0.0.1:{self._ports[upstream, buffering]}"

    def log(self) -> str:
        """Return what it has to say."""
        return (self._directory / "log").read_text()


@contextlib.contextmanager
def running_proxy(directory: Path, upstreams: Mapping[str, int]) -> Iterator[Proxy]:
    """Run nginx in front of services.

    Args:
        directory: An empty directory.
        upstreams: Ports of the services by their names.
    """
    assert NGINX is not None
    ports = _free_ports([(name, buffering) for name in upstreams for buffering in BUFFERING])
    servers = [
        SERVER.format(name=name, buffering=buffering, upstream=upstreams[name], port=port)
        for (name, buffering), port in ports.items()
    ]
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, servers="".join(servers)))
    log = directory / "log"
    with subprocess.Popen([NGINX, "-p", directory, "-c", configuration, "-e", log]) as process:
        try:
            assert wait_until(lambda: process.poll() is not None or all(map(_is_open, ports.values())), DEADLINE)
            assert process.poll() is None, log.read_text()
            yield Proxy(directory, ports)
        finally:
            process.terminate()


def _free_ports(keys: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in keys]
        return {key: listener.getsockname()[1] for key, listener in zip(keys, listeners, strict=True)}


def _is_open(port: int) -> bool:
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
