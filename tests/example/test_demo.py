"""The demonstration as a person runs it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import fastapi_aqueduct
from example_app.service import ROOT

TIMEOUT = 250.0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the example, to be spoiled."""
    shutil.copytree(ROOT / "example_app", tmp_path / "example_app", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


ONE_OF_EACH = {"AQUEDUCT_FLOW__STEP1_DECODE__NPROCS": "1", "AQUEDUCT_FLOW__STEP2_DETECT__NPROCS": "1"}
"""One worker for each step: most of what a short demonstration takes is the start of its workers."""


def environment() -> dict[str, str]:
    root = str(Path(fastapi_aqueduct.__file__).parent.parent)
    return {**os.environ, **ONE_OF_EACH, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def keep_samples(folder: Path, *names: str) -> dict[str, dict[str, list[str]]]:
    path = folder / "example_app" / "samples" / "samples.json"
    index = {name: entry for name, entry in json.loads(path.read_text()).items() if name in names}
    path.write_text(json.dumps(index))
    return index


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "example_app.demo", "--port", "0", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT)


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "example_app.demo", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.timeout(300)  # all that two cores can do for twenty seconds, and other tests run beside it
def test_it_reads_every_sample_and_stops() -> None:
    finished = run(ROOT, "--once")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for text in ("receipt.jpg", "GREEN CORNER MARKET", "Detect", "[7/7]", "as expected"):
        assert text in finished.stdout


@pytest.mark.long
def test_it_fails_when_an_expected_word_is_not_read(copy: Path) -> None:
    index = keep_samples(copy, "tiny.png")
    index["tiny.png"]["words"].append("Pears")
    (copy / "example_app" / "samples" / "samples.json").write_text(json.dumps(index))
    finished = run(copy, "--once")
    assert finished.returncode == 1
    assert "NOT READ: Pears" in finished.stdout
    assert re.search(r"^    INFO: .*read 1 of 1 lines .*\[tiny.png flow:step3_Recognise \d+\]$", finished.stdout, re.M)


def test_it_shows_the_log_of_a_service_that_dies_at_start(copy: Path) -> None:
    (copy / "example_app" / "main.py").write_text("raise RuntimeError('the roof is open')\n")
    finished = run(copy, "--once")
    assert finished.returncode == 1
    assert "RuntimeError: the roof is open" in finished.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_it_takes_another_port_when_its_own_is_taken_and_serves_until_it_is_stopped(
    copy: Path, stop: signal.Signals
) -> None:
    keep_samples(copy, "tiny.png")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(copy, "--port", str(port)) as demo:
            assert demo.stdout is not None
            shown = []
            for line in demo.stdout:
                shown.append(line)
                if line.startswith("The page:"):
                    break
            assert f"Port {port} is in use" in "".join(shown)
            address = shown[-1].split()[-1]
            assert "Text from photographs" in httpx.get(address, timeout=TIMEOUT).text
            assert httpx.get(f"{address}docs", timeout=TIMEOUT).status_code == 200
            demo.send_signal(stop)
            output, _ = demo.communicate(timeout=TIMEOUT)
            assert demo.returncode == 0 and "Stopped." in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
