"""The commands of developers beside those of servers, and the tasks that a user's function makes for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import BaseTask, ConfigurationError
from fastapi_aqueduct.call import Call
from fastapi_aqueduct.cli.developer import COMMANDS
from fastapi_aqueduct.cli.main import main
from fastapi_aqueduct.cli.sample import find_sample
from fastapi_aqueduct.model_call import ModelCall

from ..support import ROOT
from . import targets

MODULE = targets.__name__


def status_of(*arguments: str) -> object:
    """Run the command in this process, and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_one_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--help") == 0
    shown = capsys.readouterr().out
    for name in ("serve", "sagemaker", *COMMANDS):
        assert f"    {name}" in shown
    for name in COMMANDS:
        assert status_of(name, "--help") == 0
        shown = capsys.readouterr().out
        assert shown.isascii()  # no frames and no colors where there is no terminal
        for option in (word for word in shown.split() if word.startswith("--") and word != "--help"):
            assert f"AQUEDUCT_{name.upper()}_{option.strip('-,').replace('-', '_').upper()}" in shown.replace("\n", "")


def test_commands_for_servers_import_nothing_of_the_extra() -> None:
    text = "import sys; from fastapi_aqueduct.cli.main import make_parser; make_parser().format_help()"
    program = f"{text}; print(sys.modules.keys() & {{'typer', 'rich', 'click', 'matplotlib', 'jinja2'}})"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert shown == "set()\n"


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_without_the_extra_a_command_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert status_of("check", "--from-aqueduct", ".") == 2
    assert f"needs {package}: python -m pip install 'fastapi-aqueduct[cli]'" in capsys.readouterr().err


def test_options_come_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").touch()
    monkeypatch.setenv("AQUEDUCT_CHECK_FROM_AQUEDUCT", str(tmp_path))
    assert status_of("check") == 0
    assert capsys.readouterr().out.startswith("1 files read, 0 findings")
    assert status_of("check", "--from-aqueduct", str(tmp_path / "missing")) == 2
    assert "there is no Python file" in capsys.readouterr().err
    monkeypatch.delenv("AQUEDUCT_CHECK_FROM_AQUEDUCT")
    monkeypatch.setenv("AQUEDUCT_CHECK_TARGET", "nothing_there:flow")
    assert status_of("check") == 2
    assert "there is no module nothing_there" in capsys.readouterr().err


def test_wrong_arguments_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("check", "--nothing") == 2
    assert "No such option: --nothing" in capsys.readouterr().err
    assert status_of("nothing") == 2


class Page(BaseTask):
    """A task that could be taken for several."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("a task is one task")


calls = 0


def one() -> Page:
    global calls
    calls += 1
    return Page(calls)


def two() -> list[Page]:
    return [Page(1), Page(2)]


def endless() -> Iterator[Page]:
    number = 0
    while True:
        number += 1
        yield Page(number)


async def awaited() -> Page:
    return Page(1)


async def awaited_ones() -> AsyncIterator[Page]:
    yield Page(1)


def none() -> list[Page]:
    return []


def text() -> str:
    return "text"


def words() -> list[str]:
    return ["a", "b"]


def pair() -> tuple[str, int]:
    return "a", 2


def several() -> Iterator[str]:
    yield from ("a", "b")


def pooled() -> tuple[Any, ...]:
    return "short", targets.measure, "text"


def numbers_of(name: str, count: int) -> list[int]:
    sample = find_sample(f"{__name__}:{name}", f"{MODULE}:pages", targets.pages)
    tasks = [sample.next_task() for _ in range(count)]
    assert len(set(map(id, tasks))) == count
    return [task.number for task in tasks if isinstance(task, Page)]


def test_a_sample_is_one_task_or_several_and_each_is_new() -> None:
    first, second = numbers_of("one", 2)
    assert second == first + 1
    assert numbers_of("two", 3) == [1, 2, 1]
    assert numbers_of("endless", 3) == [1, 2, 3]


def test_a_sample_of_a_function_is_what_a_call_gets() -> None:
    def arguments(name: str, flow: Any = targets.stars.flow) -> list[tuple[list[Any], dict[str, Any]]]:
        sample = find_sample(f"{__name__}:{name}", f"{MODULE}:stars", flow)
        calls = [sample.next_task() for _ in range(3)]
        return [call.take_arguments() for call in calls if isinstance(call, Call)]

    assert arguments("text") == [(["text"], {})] * 3
    assert arguments("words") == [([["a", "b"]], {})] * 3
    assert arguments("pair") == [(["a", 2], {})] * 3
    assert arguments("several") == [(["a"], {}), (["b"], {}), (["a"], {})]
    assert arguments("pair", targets.lengths.flow) == [([("a", 2)], {})] * 3  # one element of a list


def test_a_sample_of_a_pool_is_one_of_its_calls() -> None:
    sample = find_sample(f"{__name__}:pooled", f"{MODULE}:pool", targets.pool.flow)
    call = sample.next_task()
    assert isinstance(call, ModelCall)
    assert (call.model, call.function, call.take_arguments()) == ("short", targets.measure, (["text"], {}))
    with pytest.raises(ConfigurationError, match=r"a tuple for one call, \(model, function, \*arguments\)"):
        find_sample(f"{__name__}:text", f"{MODULE}:pool", targets.pool.flow).next_task()


def test_a_sample_is_found_in_the_module_of_the_flow() -> None:
    assert find_sample("make_task", f"{MODULE}:pages", targets.pages).name == f"{MODULE}:make_task"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "has returned no tasks"),
        ("text", "returns a task, or an iterable of tasks, got 't' of type str"),
        ("calls", "is a function that returns a task, got"),
        ("nothing", "has no nothing"),
        ("awaited", "awaited is `async def`"),
        ("awaited_ones", "awaited_ones is `async def`"),
    ],
)
def test_what_is_no_sample_is_refused_in_words(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        find_sample(f"{__name__}:{name}", f"{MODULE}:pages", targets.pages).next_task()
