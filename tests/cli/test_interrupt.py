"""Ctrl-C ends a command of developers wherever it is, with status 130 and without a process that is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, ROOT, members_of_session, script_environment

COMMAND = [sys.executable, "-c", "from fastapi_aqueduct.cli.main import main; main()"]

MODULE = """
import sys
import threading
from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow

def stay(place):
    if place == {place!r}:
        print("stays", file=sys.stderr, flush=True)
        threading.Event().wait()

stay("module")

class Handler(BaseTaskHandler):
    def on_start(self):
        stay("on_start")

    def handle(self, *tasks):
        stay("handle")

flow = Flow(Handler())

def make_task():
    stay("sample")
    return BaseTask()
"""


@pytest.mark.parametrize("command", ["check", "tune"])
@pytest.mark.parametrize("place", ["module", "sample", "on_start", "handle"])
def test_an_interrupt_ends_the_command_and_its_workers(command: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "users_module.py").write_text(MODULE.format(place=place))
    with subprocess.Popen(
        [*COMMAND, command, "users_module:flow", "--sample", "make_task"],
        cwd=tmp_path,
        env={**script_environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line == "stays\n":
                    break
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert (process.returncode, "Traceback" in error) == (130, False), error
    assert members_of_session(process.pid) == []
