"""The files of a recorder: which are kept, who may read them, and what is refused."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct import Flow, Recorder, RecordingError
from fastapi_aqueduct.engine.wire.packing import pack
from fastapi_aqueduct.recording.budget import WINDOW, Budget
from fastapi_aqueduct.recording.directory import Directory, file_name, surplus
from fastapi_aqueduct.recording.task_file import TaskFile, task_file_parts

from ..support import DEADLINE, script_environment
from . import flows
from .handlers import Read, Scan
from .support import names

START = datetime(2026, 11, 30, 8, tzinfo=UTC)


def write(
    directory: Path, step: str = "read", seconds: float = 0.0, size: int = 100, pixels: Any = None
) -> Path:
    """Write a file as a recorder does."""
    name = file_name("ocr", step, "pkg.Unreadable", START + timedelta(seconds=seconds))
    packed = pack(Scan(np.zeros(size, np.uint8) if pixels is None else pixels, "raise"))
    folder = Directory(directory)
    folder.make()
    parts = task_file_parts({"flow": "ocr", "target": None, "task": "Scan"}, packed)
    folder.add(name, lambda file: file.writelines(parts))
    return directory / name


def test_a_name_sorts_by_time_and_says_what_has_failed() -> None:
    name = file_name("my/flow", "read text", "pkg.Bad-Name", START)
    assert name.startswith("20261130T080000.000000Z-my_flow-read_text-Bad_Name-")
    assert name < file_name("a", "a", "a", START + timedelta(microseconds=1))


files = st.dictionaries(
    st.builds(
        lambda step, seconds: file_name("ocr", step, "Bad", START + timedelta(seconds=seconds)),
        st.sampled_from(["read", "count", "label"]),
        st.integers(0, 1000),
    ),
    st.integers(0, 100),
    max_size=30,
)


@given(files, st.integers(1, 10), st.integers(1, 500))
def test_what_is_too_much_goes_and_no_more(files: dict[str, int], keep: int, max_size: int) -> None:
    gone = list(surplus(files, keep, max_size))
    left = {name: size for name, size in files.items() if name not in gone}
    assert len(left) == len(files) - len(gone)
    assert len(left) <= keep and sum(left.values()) <= max_size
    if gone:  # without the last step it was too much
        assert len(left) + 1 > keep or sum(left.values()) + files[gone[-1]] > max_size
    # A second process that begins later, or in between, removes nothing else.
    for count in range(len(gone) + 1):
        rest = {name: size for name, size in files.items() if name not in gone[:count]}
        assert list(surplus(rest, keep, max_size)) == gone[count:]


def test_a_failure_that_comes_often_does_not_displace_one_that_comes_once(tmp_path: Path) -> None:
    rare = write(tmp_path / "failures", "count", seconds=0)
    often = [write(tmp_path / "failures", "read", seconds=1 + second) for second in range(10)]
    Directory(tmp_path / "failures").prune(4, 1 << 30)
    assert names(tmp_path / "failures") == [path.name for path in (rare, *often[-3:])]
    Directory(tmp_path / "failures").prune(4, 2 * rare.stat().st_size + 100)
    assert names(tmp_path / "failures") == [rare.name, often[-1].name]


def test_other_files_are_left_alone_and_unfinished_ones_go_when_they_are_old(tmp_path: Path) -> None:
    path = write(tmp_path / "failures")
    old, young = (tmp_path / "failures" / f".{name}" for name in (path.name, file_name("a", "b", "c", START)))
    for other in (old, young, tmp_path / "failures" / "notes.txt", tmp_path / "failures" / "mine.task"):
        other.touch()
    os.utime(old, (0, 0))
    Directory(tmp_path / "failures").prune(1, 1)
    assert names(tmp_path / "failures") == sorted([young.name, "mine.task", "notes.txt"])


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = Directory(tmp_path / "failures")
    folder.make()

    def fail(file: object) -> None:
        raise OSError("no space is left")

    with pytest.raises(OSError, match="no space"):
        folder.add(file_name("a", "b", "c", START), fail)
    assert names(tmp_path / "failures") == []


WRITER = """
    import sys
    from pathlib import Path
    from tests.recording.test_files import Directory, write

    for second in range(30):
        write(Path("failures"), sys.argv[1], second)
        Directory(Path("failures")).prune(5, 1 << 30)
"""


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("\n".join(line[4:] for line in WRITER.splitlines()))
    command = [sys.executable, "-W", "error", "main.py"]
    options = {"cwd": tmp_path, "env": script_environment()}
    writers = [subprocess.Popen([*command, step], **options) for step in ("read", "count")]  # type: ignore[call-overload]
    assert [writer.wait(DEADLINE) for writer in writers] == [0, 0]
    found = [TaskFile.read(path).make_task() for path in (tmp_path / "failures").iterdir()]
    assert len(found) == 5 and all(isinstance(task, Scan) for task in found)


# Reading


def test_the_first_lines_can_be_read_without_the_code(tmp_path: Path) -> None:
    kind, metadata, *_ = write(tmp_path / "failures").read_bytes().split(b"\n", 2)
    assert kind == b"fastapi-aqueduct task 1"
    assert json.loads(metadata)["flow"] == "ocr"


@pytest.mark.parametrize("size", [0, 100, 20_000, 1_000_000])
def test_a_task_comes_back(tmp_path: Path, size: int) -> None:
    task = TaskFile.read(write(tmp_path / "failures", size=size)).make_task()
    assert isinstance(task, Scan) and len(task.pixels) == size and task.customer == "Ann"


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o622])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "failures")
    path.chmod(mode)
    with pytest.raises(RecordingError, match=f"mode {mode:o}.*a recorded task is a pickle.*chmod go-w"):
        TaskFile.read(path)
    assert TaskFile.read_metadata(path)["flow"] == "ocr"
    assert isinstance(TaskFile.read(path, is_trusted=True).make_task(), Scan)


def test_a_file_in_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "failures")
    path.parent.chmod(0o1777)  # as /tmp
    with pytest.raises(RecordingError, match=f"other users can write {path.parent}"):
        TaskFile.read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_or_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "failures")
    os.chown(path, 65534, -1)
    with pytest.raises(RecordingError, match=f"{path} belongs to another user"):
        TaskFile.read(path)
    os.chown(path, os.geteuid(), -1)
    os.chown(path.parent, 65534, -1)
    with pytest.raises(RecordingError, match=f"{path.parent} belongs to another user"):
        TaskFile.read(path)
    with pytest.raises(RecordingError, match="belongs to another user"):
        Recorder(path.parent).open()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "failures")
    (path.parent / "link.task").symlink_to(path)
    os.mkfifo(path.parent / "fifo.task")
    (path.parent / "text.task").write_text("text")
    (path.parent / "later.task").write_bytes(path.read_bytes().replace(b"task 1\n", b"task 2\n", 1))
    (path.parent / "damaged.task").write_bytes(b"fastapi-aqueduct task 1\n[]\n")
    (path.parent / "cut.task").write_bytes(path.read_bytes()[:-10])
    for name, words in {
        "link.task": "symbolic link",
        "fifo.task": "no regular file",
        "text.task": "no recorded task",
        "later.task": "version '2'",
        "damaged.task": "damaged",
        "missing.task": "No such file",
        "cut.task": "cannot be restored",
    }.items():
        with pytest.raises(RecordingError, match=words):
            TaskFile.read(path.parent / name).make_task()


@pytest.mark.parametrize("missing", [1, 50_000, 100_000])
def test_a_file_of_which_the_end_is_missing_is_refused_also_if_its_fields_are_bytes(
    missing: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "failures", pixels=b"x" * 100_000)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(RecordingError, match=f"its end is missing, at least {missing} bytes"):
        TaskFile.read(path).make_task()


def test_a_class_of_the_program_that_was_run_is_found_in_its_module(tmp_path: Path) -> None:
    path = write(tmp_path / "failures")
    data = path.read_bytes()
    target = f"{Read.__module__}:flow"
    data = data.replace(b'"target": null', f'"target": "{target}"'.encode())
    name = Scan.__module__.encode()
    short = data.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c\x08__main__")
    assert short != data
    line = short.split(b"\n")[1]
    head = json.loads(line)["head"] - len(name) + len("__main__")
    # The length of the frame is in the pickle: an opcode, and 8 bytes.
    start = short.index(b"\x95") + 1
    length = int.from_bytes(short[start : start + 8], "little") - len(name) + len("__main__")
    short = short[:start] + length.to_bytes(8, "little") + short[start + 8 :]
    path.write_bytes(short.replace(line, json.dumps({**json.loads(line), "head": head}).encode()))
    assert isinstance(TaskFile.read(path).make_task(), Scan)


def test_a_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = write(tmp_path / "new" / "failures")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# How many


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from("ab")), max_size=60), st.integers(1, 5))
def test_no_window_has_more_than_the_limit_and_none_is_refused_without_need(
    failures: list[tuple[float, str]], limit: int
) -> None:
    now = 0.0
    budget = Budget(lambda: now)
    spent: dict[str, list[float]] = {"a": [], "b": []}
    for now, kind in sorted(failures):
        recent = [time for time in spent[kind] if now - time < WINDOW]
        assert budget.spend(kind, limit) == (len(recent) < limit)
        if len(recent) < limit:
            spent[kind].append(now)
    assert Counter(kind for kind, times in spent.items() for _ in times) == Counter(
        {kind: len(times) for kind, times in spent.items() if times}
    )


def test_names_of_exceptions_that_are_made_at_run_time_take_bounded_memory() -> None:
    budget = Budget()
    for number in range(3000):
        assert budget.spend(number, 1)
    assert len(budget._times) == 1000
    assert not budget.spend(2999, 1)


# The name of the flow

FOUND = """
    # flows.py
    from fastapi_aqueduct import Flow
    from tests.recording.handlers import Read
    flow = Flow(Read())
    # words.py
    from fastapi_aqueduct import in_worker
    @in_worker
    def words(text: str) -> int:
        return 1
    # main.py
    from fastapi_aqueduct import Aqueduct, Flow, in_worker
    from tests.recording.handlers import Read
    from flows import flow
    from words import words
    other = Flow(Read())
    @in_worker
    def stars(text: str) -> int:
        return 1
    aqueduct = Aqueduct(flow, Flow(Read(), name="inner"))
    nameless = [Flow(Read())]
    if __name__ == "__main__":
        for name in [
            each._recording.flow_name()
            for each in (flow, other, stars.flow, words.flow, aqueduct.flows[1], nameless[0])
        ]:
            print(name)
"""


def test_a_flow_is_found_while_another_thread_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to Python 3.12, ``ast`` fails then, and threads that log exceptions parse."""

    def parse(*arguments: object, **options: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=33, after=60)")

    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", parse)
        name = flows.pictures._recording.flow_name()
    assert name == f"{flows.__name__}:pictures"


def test_a_flow_is_found_where_it_is_made(tmp_path: Path) -> None:
    lines = [line[4:] for line in FOUND.splitlines()]
    for name, text in re.findall(r"^# (\w+\.py)\n(.*?)(?=^# |\Z)", "\n".join(lines), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    environment = {**script_environment(), "PYTHONPATH": f"{script_environment()['PYTHONPATH']}:{tmp_path}"}
    for command in (["main.py"], ["-m", "main"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE
        )
        assert done.stdout.splitlines() == [
            *("flows:flow", "main:other", "main:stars", "words:words", "main:aqueduct", "None"),
        ], done
    assert Flow(Read())._recording.flow_name() is None
