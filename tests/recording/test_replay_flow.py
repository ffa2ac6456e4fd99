"""Tasks are replayed as workers would run them: also in and behind groups."""

from __future__ import annotations

import asyncio
import contextvars
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fastapi_aqueduct import BaseTask, FieldConflict, Flow, Recorder
from fastapi_aqueduct.cli.replay.replay import Replay
from fastapi_aqueduct.cli.replay.test_module import write_test
from fastapi_aqueduct.testing import inline, read_task

from ..support import DEADLINE, outcome
from . import flows
from .flows import Note, Picture, notes, pictures, templated
from .support import files_of


class Steps:
    """Notes how far a replay is."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.skipped: list[str] = []

    def note_step(self, name: str, seconds: float, items: int) -> None:
        """Note the end of a step."""
        self.done.append(name)

    def note_skipped(self, name: str) -> None:
        """Note a step that the task does not visit."""
        self.skipped.append(name)


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the code not mended at the beginning."""
    monkeypatch.setattr(flows, "fixed", False)


def recorded(flow: Flow, task: BaseTask, directory: Path) -> Replay:
    """Record a task that fails, and prepare to replay it."""
    recorder = Recorder(directory / "failures")

    async def fail() -> Replay:
        flow.recorder = recorder
        try:
            async with inline(flow):
                assert await outcome(flow.process(task, DEADLINE)) is not None
                (file,) = await files_of(recorder)
        finally:
            flow.recorder = None
        return Replay.prepare(file, None, None)

    return asyncio.run(fail())


def run(replay: Replay, step_only: bool = False) -> tuple[BaseException | None, Steps]:
    """Run it as in a process of its own."""
    steps, environment = Steps(), dict(os.environ)
    flows.captions.clear()
    flows.loaded.clear()
    error = contextvars.copy_context().run(replay.run, steps, step_only)
    os.environ.clear()
    os.environ.update(environment)
    return error, steps


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "fixed", True)


CAPTION = "a face of 100000, 1 plates + plate + read + red + round"


def test_a_failure_in_a_branch_is_replayed_with_what_is_behind_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = recorded(pictures, Picture("branch"), tmp_path)
    error, steps = run(replay)
    assert (str(error), steps.done) == ("no plate", [])
    mend(monkeypatch)
    error, steps = run(replay)
    assert (error, steps.done) == (None, ["read", "colors", "shapes", "faces", "caption"])
    assert flows.captions == [CAPTION]
    error, steps = run(replay, step_only=True)
    assert (error, steps.done) == (None, ["read"])


def test_a_failure_in_a_group_in_a_branch_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = recorded(pictures, Picture("nested"), tmp_path)
    error, steps = run(replay)
    assert (str(error), steps.done) == ("no shape", [])
    mend(monkeypatch)
    error, steps = run(replay)
    assert (error, steps.done) == (None, ["shapes", "colors", "faces", "caption"])
    assert flows.captions == [CAPTION.replace("1 plates", "2 plates")]  # it was recorded behind both steps


def test_a_conflict_of_branches_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = recorded(pictures, Picture("conflict"), tmp_path)
    mend(monkeypatch)
    error, steps = run(replay)
    assert isinstance(error, FieldConflict) and error.field == "faces"
    assert error.branches == ("read > [colors | shapes]", "faces")
    assert "caption" not in steps.done


def test_a_condition_behind_a_group_that_raises_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of the next step evaluates it."""
    replay = recorded(pictures, Picture("condition"), tmp_path)
    assert replay.step == "caption"
    error, _ = run(replay)
    assert str(error) == "no condition"
    mend(monkeypatch)
    error, steps = run(replay)
    assert (error, steps.done, flows.captions) == (None, ["caption"], [CAPTION.replace("1 plates", "0 plates")])


def test_a_test_of_a_failure_in_a_branch_runs_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = recorded(pictures, Picture("branch"), tmp_path)
    test = write_test(replay, tmp_path / "test_it.py", step_only=False)
    (names,) = re.findall(r"steps=(\[.*\])\)", test.read_text())
    assert names == '["read", "colors", "shapes", "faces", "caption"]'

    async def process() -> None:
        async with inline(pictures, steps=["read", "colors", "shapes", "faces", "caption"]):
            await pictures.process(read_task(tmp_path / "test_it.task"), timeout_sec=DEADLINE)

    monkeypatch.setattr(pictures, "recorder", Recorder(tmp_path / "of the service"))
    with pytest.raises(ValueError, match="no plate"):
        asyncio.run(process())
    mend(monkeypatch)
    flows.captions.clear()
    asyncio.run(process())
    assert flows.captions == [CAPTION]
    assert not (tmp_path / "of the service").exists()  # the test does not write there


@pytest.mark.parametrize(
    ("flow", "fault", "words"),
    [
        (templated, "exit", "SystemExit"),
        (notes, "cancelled", "CancelledError"),
        (notes, "key", "ValueError('no key')"),
    ],
)
def test_what_fails_a_task_in_a_worker_fails_its_replay(
    flow: Flow, fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an exception that would end the command, and one of a key of the next step."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    replay = recorded(flow, Note(fault), tmp_path)
    assert replay.step == "first"
    error, _ = run(replay)
    assert words in repr(error)
    mend(monkeypatch)
    error, steps = run(replay)
    assert (error, steps.done) == (None, ["first", "second"])
    loaded = "on 1 + worker of first" if flow is notes else "on None + template + worker of first"
    assert flows.captions[-1] == f"first + second {loaded}"


def test_a_field_that_was_shared_for_writing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Note("numbers", np.zeros(100_000, np.uint8))
    task.share_value("numbers")
    replay = recorded(notes, task, tmp_path)
    error, _ = run(replay)
    assert isinstance(error, AssertionError)
    mend(monkeypatch)
    assert run(replay)[0] is None

    async def process() -> None:
        async with inline(notes, steps=["first"]):
            await notes.process(replay.file.make_task(), timeout_sec=DEADLINE)

    asyncio.run(process())


def test_a_recorded_task_has_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be on the clock of another machine."""
    task = Note("late")
    task.expiration_time = 1.0
    replay = recorded(notes, task, tmp_path)
    mend(monkeypatch)
    assert run(replay)[0] is None
