"""``fastapi-aqueduct tune``, with real workers and little time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct.cli.developer import make_app
from fastapi_aqueduct.cli.main import main
from fastapi_aqueduct.engine.configuration import configure

from ..cli.interrupted import COMMAND, interrupted
from ..support import DEADLINE, ROOT, script_environment
from . import flows
from .flows import EACH, FIXED

MODULE = flows.__name__


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [*COMMAND, "tune", *arguments],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )


def environment(**variables: str) -> dict[str, str]:
    return {**script_environment(), "PYTHONPATH": str(ROOT), **variables}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A flow with batches, a stream, a coroutine, and steps that not every sample visits: measured once."""
    directory = tmp_path_factory.mktemp("tuned")
    arguments = ("--sample", "make_words", "--budget", "20", "--write", "tune.env", "--json")
    ended = run(directory, f"{MODULE}:flow", *arguments)
    assert ended.returncode == 0, ended.stderr
    return directory, json.loads(ended.stdout)


@pytest.mark.long
def test_each_step_is_measured_with_the_tasks_that_enter_it(tuned: tuple[Path, dict[str, Any]]) -> None:
    steps = tuned[1]["steps"]
    visits = {name: step["visits"] for name, step in steps.items()}
    assert visits == {"device": 1, "spell": 0.5, "ask": 1, "never": 0, "join": 1}
    assert steps["never"]["curves"] is None
    assert "no sample visits the step never: it keeps its settings" in tuned[1]["notes"]
    assert {step["size_option"] for step in steps.values()} == {"batch_size", "concurrency"}


@pytest.mark.long
def test_the_cost_of_a_call_is_found_up_to_the_size_that_fails(tuned: tuple[Path, dict[str, Any]]) -> None:
    device = tuned[1]["steps"]["device"]
    (curve,) = device["curves"].values()
    sizes = [point["size"] for point in curve["points"]]
    assert sizes == [1, 2, 4, 8][: len(sizes)]  # on a slow machine there is no time for all
    assert sizes != [1, 2, 4, 8] or any("size 16" in note for note in device["notes"])
    assert curve["fixed"] >= FIXED / 2
    for point in curve["points"]:
        assert point["seconds"] >= 0.95 * (FIXED + EACH * point["size"])
        assert point["cpu"] < point["seconds"] / 2  # it waits
        assert point["memory"] > 2**20


@pytest.mark.long
def test_the_flow_runs_with_its_own_settings_and_with_those_recommended(tuned: tuple[Path, dict[str, Any]]) -> None:
    found = tuned[1]
    settings = found["recommendation"]["settings"]
    assert settings.keys() == {"device", "spell", "ask", "join"}
    assert set(found["recommendation"]["limits"]) == {"the API process", "the cores", *settings}
    for run in (found["before"], found["after"]):
        assert run["measured"]["failed"] == 0
        assert run["measured"]["rate"] > 0
        assert run["expected"]["rate"] > 0
    assert found["before"]["settings"]["device"] == {"nprocs": 1, "size": 2, "threads": 1}
    assert found["after"]["settings"] == settings
    assert any("bottleneck is" in sentence for sentence in found["verdict"])


@pytest.mark.long
def test_the_variables_are_those_of_the_flow_and_the_shell_reads_them(tuned: tuple[Path, dict[str, Any]]) -> None:
    directory, found = tuned
    command = "set -a; . ./tune.env; env -0"
    shown = subprocess.run(["sh", "-euc", command], cwd=directory, env={}, capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line.startswith("AQUEDUCT_"))
    assert variables == found["variables"]
    # As docker reads it: no quotes, and nothing else but comments.
    lines = (directory / "tune.env").read_text().splitlines()
    settings = [line for line in lines if not line.startswith("#")]
    assert settings == [f"{name}={text}" for name, text in found["variables"].items()]
    steps = dict(configure(flows.flow._configuration.options, variables).options.steps)
    for name, own in found["recommendation"]["settings"].items():
        step = steps[name]
        assert step.nprocs == own["nprocs"]
        assert step.worker is not None and step.worker.threads == own["threads"]
    assert steps["device"].batch_size == found["recommendation"]["settings"]["device"]["size"]
    assert steps["device"].batch_timeout == ("auto" if steps["device"].batch_size > 1 else 0)
    assert steps["ask"].concurrency == found["recommendation"]["settings"]["ask"]["size"]


class Addresses(HTMLParser):
    """Collects what a page would load, and the text of its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]


@pytest.mark.long
def test_the_report_is_one_file_that_loads_nothing(tuned: tuple[Path, dict[str, Any]]) -> None:
    text = (tuned[0] / "tune.html").read_text()
    page = Addresses()
    page.feed(text)
    assert [address for address in page.loaded if not address.startswith("#")] == []
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert re.findall(r"url\((?!#)|@import", text) == []
    assert page.tags.count("svg") == 1 + 3 * 4 + sum(len(step["rates"]) > 1 for step in tuned[1]["steps"].values())
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", text), "each color of a plot is one of the page"
    for name in ("device", "spell", "ask", "never", "join"):
        assert f"Step {name}" in text


@pytest.mark.long
@pytest.mark.parametrize("function", ["lengths", "letters"])
def test_a_function_in_workers(function: str, tmp_path: Path) -> None:
    ended = run(tmp_path, f"{MODULE}:{function}", "--sample", "make_text", "--rate", "20", "--budget", "6")
    assert ended.returncode == 0, ended.stderr
    assert "At 20 tasks/s at random moments expect" in ended.stdout
    assert ("batch_size" if function == "lengths" else "concurrency") in ended.stdout
    assert "report: tune.html" in ended.stdout


NAMED_BY_USERS = {"variables", "settings", "limits", "steps", "rates", "curves"}
"""Objects of the JSON whose keys are no fields."""


def names_in(value: Any) -> set[str]:
    """Return the names of the fields of a JSON value."""
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    if not isinstance(value, dict):
        return set()
    parts = (list(part.values()) if name in NAMED_BY_USERS and part else part for name, part in value.items())
    return set(value).union(*map(names_in, parts))


def described_names() -> set[str]:
    """Return the names that the page describes."""
    table = (ROOT / "docs" / "tuning.md").read_text().partition("## The report as JSON")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in cell.split("`")[1::2]}


@pytest.mark.long
def test_the_json_is_that_of_the_page(tuned: tuple[Path, dict[str, Any]]) -> None:
    assert names_in(tuned[1]) | {"percent"} == described_names()  # of an objective, which this run has not


@pytest.mark.usefixtures("drawn")
def test_every_option_from_the_environment_and_what_workers_print_is_not_in_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "TARGET": f"{MODULE}:spoken", "SAMPLE": "make_items", "FLOW": "spoken", "RATE": "20", "SLO": "p95=1s",
        "BUDGET": "5", "REPORT": "other.html", "WRITE": "other.env", "JSON": "1",
    }  # fmt: skip
    assert {option.name.removesuffix("_output").upper() for option in make_app("tune").params} == set(options)
    for name, text in options.items():
        monkeypatch.setenv(f"AQUEDUCT_TUNE_{name}", text)
    assert status_of() == 0
    shown, progress = capfd.readouterr()
    found = json.loads(shown)
    assert "a print of a worker" in progress
    assert names_in(found) <= described_names()
    assert found["goal"] == {"rate": 20, "slo": {"percent": 95, "seconds": 1}}
    assert set(os.listdir()) == {"other.html", "other.env"}
    for name, value in found["variables"].items():
        assert f"\n{name}={value}\n" in Path("other.env").read_text()


def interrupted_session(directory: Path, line: str, *numbers: int, options: Sequence[str] = ()) -> str:
    """Send signals to the command when it has printed a line; see `interrupted`.

    Returns:
        What it has printed to stdout.
    """
    arguments = ["tune", f"{MODULE}:flow", "--sample", "make_words", "--budget", "300", *options]
    shown, _ = interrupted(directory, arguments, line, numbers)
    return shown


def test_a_signal_ends_the_measurements_and_what_was_measured_is_reported(tmp_path: Path) -> None:
    # When the next step begins, the first one has been measured.
    options = ("--write", "tune.env", "--json")
    found = json.loads(interrupted_session(tmp_path, "spell: start", signal.SIGINT, options=options))
    assert found["is_interrupted"]
    assert found["steps"]["device"]["curves"]
    assert found["recommendation"]["settings"].keys() == {"device"}
    assert found["after"] is None
    assert (tmp_path / "tune.html").exists()
    assert "AQUEDUCT_WORDS__DEVICE__NPROCS=" in (tmp_path / "tune.env").read_text()


def test_further_signals_leave_no_worker(tmp_path: Path) -> None:
    interrupted_session(tmp_path, "device: 1 thread", signal.SIGTERM, signal.SIGINT)


def status_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--slo", "fast"), "an objective is given as p95=200ms"),
        (("--rate", "0"), "more than 0 tasks per second"),
        (("--report", "missing/tune.html"), "missing/tune.html cannot be written: there is no directory"),
        (("--write", "."), "cannot be written: it is a directory"),
        (("--write", "/proc/tune.env"), "/proc/tune.env cannot be written: No such file or directory"),
        (("--rate", "inf"), "more than 0 tasks per second"),
        (("--budget", "nan"), "--budget"),
        (("--budget", "1"), "--budget"),
    ],
)
def test_arguments_are_checked_before_anything_is_measured(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(f"{MODULE}:flow", "--sample", "make_words", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_sample_that_fails_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status_of(f"{MODULE}:failing", "--sample", "make_words", "--budget", "5") == 2
    assert "step fail fails with the sample: ValueError: not a word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("import not_installed", "users_module cannot be imported: ModuleNotFoundError: No module named", 1),
        ("def make():\n    open('sample.png')", "the sample users_module:make has raised FileNotFoundError", 2),
    ],
)
def test_what_the_users_module_raises_is_shown_with_its_place(
    text: str, message: str, line: int, tmp_path: Path
) -> None:
    (tmp_path / "users_module.py").write_text(f"{text}\nfrom {MODULE} import flow\n")
    ended = run(tmp_path, "users_module:flow", "--sample", "make")
    assert ended.returncode == 2
    traceback, _, last = ended.stderr.rstrip().rpartition("\n")
    assert last.startswith(f"fastapi-aqueduct: {message}")
    assert f'users_module.py", line {line}' in traceback
    assert str(ROOT / "fastapi_aqueduct") not in ended.stderr
