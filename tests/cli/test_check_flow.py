"""``fastapi-aqueduct check`` on flows that run, with what it finds in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.cli.check.check import CheckOptions, make_report
from fastapi_aqueduct.cli.check.finding import Finding, Severity
from fastapi_aqueduct.cli.check.rendering import show
from fastapi_aqueduct.cli.check.report import Field, Report, Step, Travel
from fastapi_aqueduct.cli.main import main
from fastapi_aqueduct.cli.terminal import make_console

from ..support import DEADLINE, ROOT
from . import checked, web

MODULE = checked.__name__


def check(name: str, sample: str | None = "make_task", flow: str | None = None, timeout: float = DEADLINE) -> Report:
    """Check a flow of the module `checked`, or of another one."""
    target = name if ":" in name else f"{MODULE}:{name}"
    return make_report(CheckOptions(target, flow, sample and f"{MODULE}:{sample}", timeout), lambda text: None)


def codes(report: Report, step: str = "") -> list[str]:
    return sorted(finding.code for finding in report.findings if finding.step == step)


def only(report: Report, code: str) -> Finding:
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, report.findings
    return found[0]


def fields_of(fields: Any) -> dict[str, Field]:
    return {field.name: field for field in fields}


@pytest.fixture(scope="module")
def good() -> Report:
    return check("good")


@pytest.fixture(scope="module")
def troubled() -> Report:
    return check("troubled")


def steps_of(report: Report) -> dict[str, Step]:
    return {step.name: step for step in report.steps}


def test_a_flow_that_works_has_no_errors_and_warnings(good: Report) -> None:
    assert not [finding for finding in good.findings if finding.severity is not Severity.NOTE]
    assert good.run is not None
    assert (good.run.task, good.run.items) == (f"{MODULE}.Scan", 0)
    assert good.run.total_time is not None and good.run.total_time >= checked.CALL
    assert json.loads(good.as_json())["ok"] is True


def test_it_tells_what_of_a_task_is_shared_and_what_is_pickled(good: Report) -> None:
    decode, last = steps_of(good).values()
    before, after = fields_of(decode.fields_in), fields_of(decode.fields_out)
    assert before["image"] == Field("image", "bytes (100000)", 100_000, 0, Travel.SHARED)
    assert after["image"].travel is Travel.REFERENCE
    pixels = after["pixels"]
    assert (pixels.type, pixels.size - pixels.pickled) == ("numpy.ndarray float32 (100000,)", 400_000)
    assert pixels.travel is Travel.SHARED
    assert (before["names"].type, before["names"].travel) == ("list (2)", Travel.PICKLED)
    assert fields_of(last.fields_in)["pixels"].travel is Travel.REFERENCE
    assert fields_of(last.fields_in)["image"].travel is Travel.REFERENCE
    assert fields_of(last.fields_out)["image"].type == "NoneType"
    assert not {"task_id", "priority", "expiration_time"} & before.keys()


def test_it_measures_calls_and_batches(good: Report) -> None:
    decode, last = (step.times for step in good.steps)
    assert decode is not None and last is not None
    assert (decode.batch_size, decode.batched_time) == (1, None)
    assert last.warm_call is not None and min(last.first_call, last.warm_call) >= checked.CALL
    assert last.single_time is not None and last.batched_time is not None
    assert last.single_time >= checked.CALL and last.batched_time >= checked.CALL / 4
    assert last.batched_time < last.single_time


def test_a_batch_is_measured_that_the_costs_of_its_tasks_allow() -> None:
    (step,) = check("costly").steps
    assert step.times is not None and step.times.batch_size == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_it_tells_what_workers_use(good: Report) -> None:
    for step in good.steps:
        (worker,) = step.workers
        assert worker.private_memory and worker.model_memory is not None
        assert worker.import_time is not None and 0 < worker.import_time <= worker.load_time
        assert worker.threads and worker.numeric_threads
    first, last = (step.workers[0].model_memory or 0 for step in good.steps)
    assert first < 8_000_000 <= last  # its model has 16 MB, of which it has touched all


def test_settings_have_their_source(good: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {setting.option: setting for setting in good.steps[1].settings}
    assert (found["batch_size"].value, found["batch_size"].source) == (4, "code")
    assert found["nprocs"].source == "default"
    assert {setting.option for setting in good.settings} >= {"queue_size", "memory_limit"}
    monkeypatch.setenv("AQUEDUCT_GOOD__SUM__BATCH_SIZE", "2")
    report = check("good", None)
    found = {setting.option: setting for setting in report.steps[1].settings}
    assert (found["batch_size"].value, found["batch_size"].source) == (2, "environment")
    assert report.run is None and report.steps[0].times is None and report.steps[0].workers
    monkeypatch.setenv("AQUEDUCT_GOOD__SUM__BATCH", "2")
    with pytest.raises(ConfigurationError, match="AQUEDUCT_GOOD__SUM__BATCH sets nothing"):
        check("good", None)


def test_the_json_is_that_of_the_page(good: Report) -> None:
    """Each field of the JSON is described, and each that is described is there."""
    page = (ROOT / "docs" / "command-line.md").read_text()

    def names_in(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names_in, value))
        if isinstance(value, dict):
            return value.keys() | set().union(*map(names_in, value.values()))
        return set()

    table = page.partition("## The report of `check` as JSON")[2].partition("\n## ")[0]
    described = {name for line in table.splitlines() if line.startswith("| `") for name in _quoted(line)}
    findings = json.loads(check("raises").as_json())["findings"]
    assert described == names_in({**json.loads(good.as_json()), "findings": findings})


def _quoted(line: str) -> list[str]:
    return line.split("|")[1].split("`")[1::2]


def test_a_model_made_in_init_is_found(troubled: Report) -> None:
    found = only(troubled, "large-handler")
    assert found.step == "large" and "Large.model of type ndarray" in found.text
    assert "in Large.on_start" in found.text
    assert (steps_of(troubled)["large"].handler_size or 0) > 2_400_000


def test_a_value_that_handle_returns_is_found(troubled: Report) -> None:
    found = only(troubled, "returned-value")
    assert (found.step, found.severity) == ("large", Severity.WARNING)
    assert "Large.handle returned a int" in found.text


def test_a_batch_that_does_not_pay_is_found(troubled: Report) -> None:
    found = only(troubled, "batch-does-not-pay")
    assert found.step == "one-by-one" and "in a batch of 4" in found.text
    times = steps_of(troubled)["one-by-one"].times
    assert times is not None and times.batched_time is not None and times.batched_time >= checked.CALL


def test_a_large_field_that_is_pickled_is_found(troubled: Report) -> None:
    fields = [finding for finding in troubled.findings if finding.code == "pickled-field"]
    assert fields[0].step == "one-by-one" and "the field words of type list (1000)" in fields[0].text


def test_a_slow_first_call_is_found(troubled: Report) -> None:
    assert "cold" in [each.step for each in troubled.findings if each.code == "slow-first-call"]


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_more_threads_than_cores_are_found(troubled: Report) -> None:
    flow, own = sorted((each for each in troubled.findings if each.code == "threads"), key=lambda each: each.step)
    assert "threads for numbers" in flow.text and "asleep 1 x 1000" in flow.text and flow.severity is Severity.WARNING
    assert own.step == "parallel" and "a library ignores OMP_NUM_THREADS" in own.text


def test_a_step_that_no_sample_visits_is_named_and_one_that_sleeps_is_woken(troubled: Report) -> None:
    found = only(troubled, "not-visited")
    assert (found.step, found.severity) == ("unvisited", Severity.NOTE)
    assert steps_of(troubled)["asleep"].times is not None
    assert not troubled.has_errors


def test_a_handler_that_cannot_be_pickled_is_named_by_its_part() -> None:
    found = only(check("locked"), "unpicklable-handler")
    assert found.step == "locked" and found.severity is Severity.ERROR
    assert "Locked.clients['a'][0] of type lock" in found.text and "on_start" in found.text


def test_the_status_is_1_if_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", f"{MODULE}:locked", "--json"])
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], [finding["severity"] for finding in report["findings"]]) == (False, ["error"])


def test_a_field_that_cannot_be_pickled_is_named_by_its_part() -> None:
    report = check("good", "make_lambda")
    found = only(report, "unpicklable-field")
    assert "Scan.names[0]['key'] of type function" in found.text
    assert report.has_errors and report.run is not None and report.run.total_time is None


def test_a_worker_that_cannot_start_shows_its_traceback() -> None:
    found = only(check("fails_to_start"), "start")
    assert found.step == "load" and "failed in on_start: FileNotFoundError: weights.onnx" in found.text
    assert 'raise FileNotFoundError("weights.onnx")' in found.detail
    assert "fastapi_aqueduct" not in found.detail.replace(str(Path(checked.__file__)), "")


def test_a_sample_that_fails_shows_the_traceback_of_the_worker() -> None:
    report = check("raises")
    found = only(report, "sample")
    assert found.step == "read" and "KeyError: 'no such word'" in found.text
    assert "in _read" in found.detail and "runners.py" not in found.detail
    assert codes(report, "first") == [] and steps_of(report)["first"].fields_in


def test_the_branch_that_fails_is_named_and_not_one_that_waits() -> None:
    assert only(check("raises_beside"), "sample").step == "read"


def test_a_flow_with_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    """Each branch is shown with what it sees and sets, and measured with tasks that go through the whole flow."""
    report = check("branched")
    assert not report.has_errors
    decode, total, name, words, last = report.steps
    found = json.loads(report.as_json())
    assert found["shape"] == ["decode", [["total"], ["name", "words"]], "last"]
    assert [step["name"] for step in found["steps"]] == ["decode", "total", "name", "words", "last"]
    assert fields_of(decode.fields_out)["pixels"].travel is Travel.SHARED
    for step in (total, name, words, last):
        assert fields_of(step.fields_in)["pixels"].travel is Travel.REFERENCE
    names = [fields_of(step.fields_out)["names"].type for step in report.steps]
    assert names == ["list (2)", "list (2)", "list (3)", "list (3)", "list (3)"]
    seen = [fields_of(step.fields_in)["words"].type for step in report.steps]
    assert seen == ["list (0)", "list (0)", "list (0)", "list (0)", "list (3)"]
    for step in report.steps:
        assert step.workers and step.times is not None and step.times.warm_call is not None
    assert total.times is not None and total.times.batch_size == 4
    assert total.times.single_time is not None and total.times.single_time >= checked.CALL
    show(report, make_console())
    shown = capsys.readouterr().out
    assert f"{report.cores} cores, decode > [total | name > words] > last" in shown.partition("\nstep")[0]
    for step in report.steps:
        assert f"\nstep {step.name}: " in shown


def test_a_worker_that_dies_is_named() -> None:
    found = only(check("dies"), "sample")
    assert found.step == "dies" and "WorkerDied" in found.text and "7" in found.text


def test_a_call_that_does_not_end_is_not_waited_for() -> None:
    found = only(check("hangs", timeout=0.5), "sample")
    assert "TaskTimeout" in found.text and (found.step, found.detail) == ("hangs", "")


def test_a_batch_that_fails_is_found_though_one_task_works() -> None:
    report = check("together")
    found = only(report, "sample")
    assert found.step == "together" and "up to 4 together: ValueError: shapes of 4 tasks differ" in found.text
    assert report.run is not None and report.run.total_time is not None


def test_a_batch_in_a_group_that_fails_or_hangs_is_found() -> None:
    found = only(check("together_beside"), "sample")
    assert found.step == "together" and "up to 4 together: ValueError: shapes of 4 tasks differ" in found.text
    assert "in handle" in found.detail
    assert "up to 2 together: TaskTimeout" in only(check("hangs_beside", timeout=0.5), "sample").text


def test_a_task_that_only_workers_can_rebuild_is_left_alone() -> None:
    report = check("opaque")
    assert report.run is not None and report.run.total_time is not None, report.findings
    hides, adds = report.steps
    assert hides.fields_in and hides.fields_out is adds.fields_in is None and adds.fields_out
    assert adds.times is not None and adds.times.first_call and adds.times.warm_call is None


def test_items_of_streams_are_counted() -> None:
    run = check("yields").run
    assert run is not None
    assert (run.items, run.item_type) == (2, "str (3)")
    assert run.first_item is not None and run.total_time is not None and run.first_item <= run.total_time


def test_continuous_batches_are_measured_side_by_side() -> None:
    report = check("rounds")
    (step,) = report.steps
    assert step.times is not None and step.times.is_staggered and step.times.batched_time is not None
    assert report.run is not None and (report.run.items, report.run.item_type) == (4, "float")
    assert only(report, "batch-does-not-pay").severity is Severity.NOTE


def test_functions_and_pools_are_checked_by_a_call() -> None:
    report = check("lengths", "make_text")
    (step,) = report.steps
    assert (step.handler, report.run is not None and report.run.task) == (f"{MODULE}.lengths", "call")
    assert [field.name for field in step.fields_in or ()] == ["argument 1"]
    assert [field.name for field in step.fields_out or ()] == ["result"]
    report = check("pool", "make_call")
    assert not report.has_errors and report.steps[0].times is not None


def test_fastapi_in_a_worker_is_found_with_the_module_that_imports_it() -> None:
    report = check(f"{web.__name__}:app", flow="portal")
    found = only(report, "fastapi-in-worker")
    assert (found.step, found.severity) == ("read", Severity.WARNING)
    assert f"because of {web.__name__}:" in found.text
    assert report.flow == "portal"


@pytest.mark.parametrize(
    ("sample", "text", "detail"),
    [
        ("make_nothing", "has returned no tasks", ""),
        ("make_error", "make_error has raised LookupError: no file for the sample", "in make_error"),
    ],
)
def test_a_function_that_makes_no_sample_is_an_error(sample: str, text: str, detail: str) -> None:
    report = check("good", sample)
    found = only(report, "sample")
    assert text in found.text and detail in found.detail
    assert not any(step.workers for step in report.steps)


SOURCE = """
from fastapi_aqueduct import BaseTaskHandler, Flow

class Handler(BaseTaskHandler):
    def handle(self, *tasks): ...

flow = Flow(Handler())
"""


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("import uvicorn\nuvicorn.run(app)\n", "main-guard", 9),
        ("flow.start()\n", "main-guard", 8),
        ("import nothing_of_that_name\n", "import", None),
        ("raise SystemExit('end')\n", "import", None),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error(
    text: str, code: str, line: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"checked_{code.replace('-', '_')}_{line}_{len(text)}"
    (tmp_path / f"{name}.py").write_text(SOURCE + text)
    monkeypatch.syspath_prepend(tmp_path)
    report = check(f"{name}:flow", None)
    (found,) = report.findings
    assert (found.code, report.has_errors) == (code, True)
    if line is not None:
        assert f"{name}.py:{line}: " in found.text and '`if __name__ == "__main__":`' in found.text


def test_what_is_no_flow_is_an_error_of_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        ([f"{MODULE}:nothing"], "has no nothing"),
        (["nothing_of_that_name:flow"], "there is no module"),
        ([f"{MODULE}:good", "--sample", "nothing"], "has no nothing"),
        ([f"{MODULE}:good", "--from-aqueduct", "."], "not both"),
        ([], "one of the two is needed"),
        ([f"{MODULE}:good", "--timeout", "inf"], "a number of seconds is needed"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["check", *arguments])
        assert ended.value.code == 2
        assert text in " ".join(capsys.readouterr().err.split())


def test_the_installed_command_prints_one_report() -> None:
    """What workers print does not get into it."""
    program = str(Path(sys.executable).with_name("fastapi-aqueduct"))
    command = [program, "check", f"{MODULE}:good", "--sample", "make_task"]

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **variables}
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=DEADLINE
        )

    ended = run("--json")
    assert (ended.returncode, json.loads(ended.stdout)["flow"]) == (0, "good")
    assert "a print of a worker" in ended.stderr
    ended = run(AQUEDUCT_GOOD__SUM__BATCH_SIZE="2", NO_COLOR="1")
    assert ended.returncode == 0
    shown = " ".join(ended.stdout.split())
    for text in ("flow good", "batch_size=2 (AQUEDUCT_GOOD__SUM__BATCH_SIZE)", "by reference", "0 errors"):
        assert text in shown
    assert "\x1b" not in ended.stdout and not any(line.endswith(" ") for line in ended.stdout.splitlines())
