"""Ctrl-C ends a command of developers wherever it is, with status 130 and without a process that is left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .interrupted import interrupted

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
    arguments = [command, "users_module:flow", "--sample", "make_task"]
    _, error = interrupted(tmp_path, arguments, "stays\n", [signal.SIGINT])
    assert "Traceback" not in error, error
