"""The two containers of the sidecar variant, as local processes with the commands and variables of the manifest."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..asgi.service import Service, children, launched
from ..support import DEADLINE, script_environment, wait_until
from . import image
from .crowd import text_of
from .kubelet import on_port
from .manifests import environment_of, load

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-c", "import sys; from fastapi_aqueduct.cli.main import main; sys.exit(main())"]
"""What ``fastapi-aqueduct`` runs."""


def containers() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the container of the pipeline and that of the API process."""
    pod = load("deployment-sidecar.yaml")["spec"]["template"]["spec"]
    (pipeline,), (api,) = pod["initContainers"], pod["containers"]
    return pipeline, api


def in_volume(text: str, volume: Path) -> str:
    """Return a path of the volume that both containers have, as it is on this machine."""
    (mount,) = containers()[0]["volumeMounts"]
    return text.replace(mount["mountPath"], str(volume))


@contextlib.contextmanager
def running_pipeline(directory: Path, volume: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the container of the pipeline."""
    pipeline, _ = containers()
    words = [in_volume(word, volume) for word in pipeline["command"]]
    environment = {**script_environment(), **environment_of(pipeline)}
    with (directory / "pipeline.log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, *words[1:]], cwd=directory, env=environment, stdout=log, stderr=log)
    with process:
        try:
            yield process
        finally:
            process.kill()


def restart(directory: Path, module: list[str]) -> None:
    """Start the API process, ask it once, and stop it; it has no workers of its own."""
    with launched(directory, module) as (server, port):
        service = Service(directory, server, port)
        assert wait_until(lambda: service.probe() == 200, DEADLINE), service.log()
        answer = httpx.post(f"{service.url}/ocr", content=b"a picture", timeout=DEADLINE, verify=False)
        assert answer.json() == [text_of(b"a picture")]
        assert service.workers() == set()
        server.terminate()
        server.wait(DEADLINE)


def test_a_restart_of_the_api_leaves_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = image.build(tmp_path / "1.0", image.MODELS.replace("3.0", "0.0"))
    volume = tmp_path / "run"
    volume.mkdir()
    volume.chmod(0o777)  # as the kubelet makes a volume
    pipeline, api = containers()
    for name, value in environment_of(api).items():
        monkeypatch.setenv(name, in_volume(value, volume))
    socket = Path(in_volume(pipeline["startupProbe"]["exec"]["command"][-1], volume))
    command = on_port(tuple(api["command"]), 0)
    module = [word.replace("--port=0", "--port={port}") for word in command]
    with running_pipeline(directory, volume) as process:
        assert wait_until(socket.is_socket, DEADLINE), (directory / "pipeline.log").read_text()
        restart(directory, module)
        workers = children(process.pid)
        restart(directory, module)
        assert workers and children(process.pid) == workers
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
