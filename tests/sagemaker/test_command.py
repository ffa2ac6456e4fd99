"""``fastapi-aqueduct sagemaker``: the entry point of an image."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastapi_aqueduct.cli.main import main
from fastapi_aqueduct.cli.signals import SIGNALS

from ..asgi.service import Service
from ..support import DEADLINE, script_environment, wait_until, write_script

MODULE = """
    from pathlib import Path

    def model_fn(model_dir):
        return Path(model_dir, "word").read_text()

    def predict_fn(data, model):
        return model.encode() + data
"""

COMMAND = [sys.executable, "-W", "error", "-c", "from fastapi_aqueduct.cli.main import main; main()", "sagemaker"]


def test_an_image_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """SageMaker adds the argument ``serve``, also after options."""
    write_script(tmp_path, MODULE, "inference.py")
    (tmp_path / "word").write_text("tide of ")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {"SM_MODEL_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": str(port)}
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(
            [*COMMAND, "inference", "--nprocs", "1", "--host", "127.0.0.1", "serve"],
            cwd=tmp_path,
            env={**script_environment(), **variables},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        service = Service(tmp_path, process, port)
        try:
            assert wait_until(lambda: process.poll() is not None or service.probe("/ping") == 200, 2 * DEADLINE)
            reply = httpx.post(service.url + "/invocations", content=b"Brest", timeout=DEADLINE, verify=False)
            assert reply.content == b"tide of Brest"
            process.send_signal(signal.SIGTERM)
            assert process.wait(2 * DEADLINE) == 0, service.log()
        except BaseException:
            process.kill()
            print(service.log())
            raise


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the command changes in its process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inference", "--nprocs", "0"], "needs nprocs >= 1"),
        (["inference", "other"], "unrecognized arguments: other"),
        (["inference", "--port", "http"], "invalid int value"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], own_process: None
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sagemaker", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
