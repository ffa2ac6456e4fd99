"""Numbers from environment variables: names, values, where each comes from, mistakes."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_aqueduct import (
    Aqueduct,
    Autoscale,
    BaseTaskHandler,
    ConfigurationError,
    Flow,
    FlowStep,
    Jobs,
    Recorder,
    Setting,
    UploadLimits,
    WorkerOptions,
)
from fastapi_aqueduct.asgi.app_options import AppOptions
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.jobs.options import JobOptions
from fastapi_aqueduct.recording.options import RecorderOptions
from fastapi_aqueduct.testing import client, inline
from fastapi_aqueduct.variables import DELIMITER, numbers_of, part

from ..functions.functions import stars
from ..handlers import Each, Job
from ..support import ROOT, forked, pids, running


class Classify(BaseTaskHandler):
    """Does nothing."""

    def handle(self, *tasks: Job) -> None: ...


class Items(BaseTaskHandler):
    """Yields nothing."""

    def handle(self, *tasks: Job) -> Iterator[int]:
        yield from ()


@pytest.fixture(autouse=True)
def no_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AQUEDUCT_")]:
        monkeypatch.delenv(name)


def make_flow(**options: Any) -> Flow:
    return Flow(FlowStep(Classify(), nprocs=2, batch_size=16, name="classify"), Each(), name="ocr", **options)


def settings(flow: Flow, step: str | None = None) -> dict[str, Setting]:
    return {setting.option: setting for setting in flow.settings if setting.step == step}


def origin(setting: Setting) -> tuple[object, str]:
    return setting.value, setting.source


def value_with(monkeypatch: pytest.MonkeyPatch, flow: Flow, variable: str, text: str) -> Any:
    """Return the value that a variable sets."""
    monkeypatch.setenv(variable, text)
    (setting,) = [setting for setting in flow.settings if setting.source == "environment"]
    assert setting.variable == variable
    monkeypatch.delenv(variable)
    return setting.value


def refusal(monkeypatch: pytest.MonkeyPatch, flow: Flow, **variables: str) -> str:
    """Return the message of the error that some variables are."""
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError) as caught:
        flow.start()
    for name in variables:
        monkeypatch.delenv(name)
    return str(caught.value)


# Names


def test_parts_of_names() -> None:
    names = {"ocr": "OCR", "text-to-speech": "TEXT_TO_SPEECH", "step1_Classify": "STEP1_CLASSIFY", "_v2.1_": "V2_1"}
    assert {name: part(name) for name in names} == names


@given(st.text())
@example("größe")
@example("ﬃ")
def test_a_part_is_what_a_shell_can_set_and_has_no_delimiter(name: str) -> None:
    made = part(name)
    assert re.fullmatch("([A-Z0-9]+(_[A-Z0-9]+)*)?", made)
    assert part(made) == made == part(name.swapcase() if name.isascii() else name)
    assert re.sub("[^a-zA-Z0-9]", "", name).upper() == made.replace("_", "")


NAME = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(part)


@given(st.lists(NAME, min_size=1, max_size=3, unique_by=part), st.lists(NAME, min_size=1, max_size=3, unique_by=part))
def test_each_number_has_a_variable_of_its_own(flows: list[str], steps: list[str]) -> None:
    """So none is read by two flows, and by two steps of one."""
    taken = {name for name in steps if re.fullmatch(r"(STEP[0-9]+_)?CLASSIFY", part(name))}
    made = [
        Flow(*(FlowStep(Classify(), name=name) for name in steps if name not in taken), Classify(), name=name)
        for name in flows
    ]
    variables = [setting.variable for flow in made for setting in flow.settings]
    assert len(set(variables)) == len(variables)
    for flow in made:
        assert all(setting.variable.startswith(f"AQUEDUCT_{part(flow.name)}__") for setting in flow.settings)


def test_a_step_has_its_name_and_the_numbered_one(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow()
    for name in ("CLASSIFY", "STEP1_CLASSIFY", "EACH", "STEP2_EACH"):
        assert value_with(monkeypatch, flow, f"AQUEDUCT_OCR__{name}__NPROCS", "7") == 7
    assert settings(flow, "classify")["nprocs"].variable == "AQUEDUCT_OCR__CLASSIFY__NPROCS"
    assert settings(flow, "step2_Each")["nprocs"].variable == "AQUEDUCT_OCR__EACH__NPROCS"


def test_a_short_name_of_two_steps_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(Each(), Each(), FlowStep(Classify(), name="each"), name="ocr")
    assert value_with(monkeypatch, flow, "AQUEDUCT_OCR__EACH__NPROCS", "3") == 3
    assert settings(flow, "each")["nprocs"].value == 1  # without the variable
    assert value_with(monkeypatch, flow, "AQUEDUCT_OCR__STEP2_EACH__NPROCS", "3") == 3
    unnamed = Flow(Each(), Each(), name="ocr")
    said = refusal(monkeypatch, unnamed, AQUEDUCT_OCR__EACH__NPROCS="3")
    assert "AQUEDUCT_OCR__EACH__NPROCS sets nothing of flow ocr" in said
    assert re.search("did you mean AQUEDUCT_OCR__STEP[12]_EACH__NPROCS", said)


def test_names_that_are_equal_in_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(FlowStep(Each(), name="a-b"), FlowStep(Each(), name="A.B"), name="ocr")
    said = refusal(monkeypatch, flow, AQUEDUCT_OCR__A_B__NPROCS="3")
    assert "AQUEDUCT_OCR__A_B__NPROCS stands for step a-b of flow ocr and for step A.B of flow ocr" in said
    assert value_with(monkeypatch, flow, "AQUEDUCT_OCR__STEP2_EACH__NPROCS", "3") == 3


def test_the_only_step_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    single = Flow(FlowStep(Each(), name="classify"), name="ocr")
    for name in ("AQUEDUCT_OCR__NPROCS", "AQUEDUCT_OCR__CLASSIFY__NPROCS", "AQUEDUCT_OCR__EACH__NPROCS"):
        assert value_with(monkeypatch, single, name, "3") == 3
    assert settings(stars.flow, "stars")["nprocs"].variable == "AQUEDUCT_STARS__NPROCS"
    both = {"AQUEDUCT_OCR__NPROCS": "3", "AQUEDUCT_OCR__CLASSIFY__NPROCS": "3"}
    assert "are both nprocs of step classify of flow ocr: leave out one" in refusal(monkeypatch, single, **both)


def test_options_of_flows_and_steps_differ() -> None:
    """Else a variable of a flow with one step would stand for two."""
    of_step = numbers_of(FlowStep.__init__).keys()
    assert not {setting.option for setting in stars.flow.settings if setting.step is None} & of_step


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("4", 4), (" 4\n", 4), ("+4", 4), ("2Ki", 2048), ("512Mi", 1 << 29), ("1Gi", 1 << 30), ("1Ti", 1 << 40)),
        *(
            ("2k", 2000),
            ("500M", 500_000_000),
            ("1G", 10**9),
            ("1.5Gi", 3 << 29),
            ("4MiB", 4 << 20),
            ("2MB", 2_000_000),
        ),
    ],
)
def test_whole_numbers(monkeypatch: pytest.MonkeyPatch, text: str, value: int) -> None:
    assert value_with(monkeypatch, make_flow(), "AQUEDUCT_OCR__QUEUE_SIZE", text) == value


@pytest.mark.parametrize(
    "text",
    ["four", "4.0", "1e3", "0x10", "512m", "4K", "4 Mi", "0.0001Ki", "none", "auto", "9" * 5000, "٤", "1_0", "-"],
)
def test_what_is_no_whole_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    said = refusal(monkeypatch, make_flow(), AQUEDUCT_OCR__CLASSIFY__NPROCS=text)
    assert said.endswith(
        f"\n    AQUEDUCT_OCR__CLASSIFY__NPROCS={text} is not nprocs of step classify of flow ocr: "
        "it must be a whole number such as 4 or 512Mi"
    )


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_every_whole_number_is_read_back(number: int) -> None:
    assert numbers_of(FlowStep.__init__)["nprocs"].parse(str(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_of_seconds_is_read_back(number: float) -> None:
    assert numbers_of(FlowStep.__init__)["max_age"].parse(repr(number)) == number


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("3", 3.0), ("1e-3", 0.001), ("auto", "auto"), ("AUTO", "auto")]
)
def test_seconds(monkeypatch: pytest.MonkeyPatch, text: str, value: object) -> None:
    assert value_with(monkeypatch, make_flow(), "AQUEDUCT_OCR__CLASSIFY__BATCH_TIMEOUT", text) == value


@pytest.mark.parametrize("text", ["5s", "nan", "inf", "-inf", "1Ki", "none", "never"])
def test_what_is_no_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    said = refusal(monkeypatch, make_flow(), AQUEDUCT_OCR__CLASSIFY__BATCH_TIMEOUT=text)
    assert said.endswith("it must be a number of seconds such as 0.5, or auto")


def test_none_where_the_argument_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(FlowStep(Each(), handle_timeout=3, max_tasks=3), name="ocr", memory_limit=1 << 22)
    for option in ("HANDLE_TIMEOUT", "MAX_TASKS"):
        assert value_with(monkeypatch, flow, f"AQUEDUCT_OCR__{option}", "None") is None
    assert value_with(monkeypatch, flow, "AQUEDUCT_OCR__MEMORY_LIMIT", "none") == Flow(Each()).memory_limit


def test_an_empty_value_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", " ")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROC", "")
    assert origin(settings(make_flow(), "classify")["nprocs"]) == (2, "code")


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("AQUEDUCT_OCR__CLASSIFY__NPROCS", "0", "the step with Classify needs nprocs >= 1, got 0"),
        ("AQUEDUCT_OCR__CLASSIFY__BATCH_TIMEOUT", "-1", "the step with Classify needs batch_timeout >= 0, got -1.0"),
        ("AQUEDUCT_OCR__CLASSIFY__CONCURRENCY", "4", "concurrency=4 needs a generator"),
        ("AQUEDUCT_OCR__CLASSIFY__NPROCS__MINIMUM", "5", "Autoscale needs maximum >= 5, got 2"),
        ("AQUEDUCT_OCR__CLASSIFY__WORKER__THREADS", "0", "WorkerOptions needs threads >= 1"),
        ("AQUEDUCT_OCR__QUEUE_SIZE", "0", "queue_size must be at least 1, got 0"),
        ("AQUEDUCT_OCR__MEMORY_LIMIT", "1", "memory_limit must be at least 1048576, got 1"),
        ("AQUEDUCT_OCR__STOP_TIMEOUT", "-1", "stop_timeout must not be negative, got -1.0"),
        ("AQUEDUCT_OCR__TIMING__HANG_AFTER", "-1", "Timing needs hang_after >= 0, got -1.0"),
    ],
)
def test_values_pass_the_checks_of_arguments(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, said: str
) -> None:
    assert refusal(monkeypatch, make_flow(), **{variable: text}).startswith(
        f"environment variable {variable}={text}: {said}"
    )


def test_a_generator_has_no_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs batch_size=1" in refusal(monkeypatch, Flow(Items(), name="ocr"), AQUEDUCT_OCR__BATCH_SIZE="4")


# Elastic steps


def scale(flow: Flow, step: str = "classify") -> dict[str, Any]:
    return {name[6:]: item.value for name, item in settings(flow, step).items() if name.startswith("nprocs")}


def test_limits_of_a_step_with_a_fixed_number(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow()
    assert scale(flow) == {"": 2}
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS__MINIMUM", "0")
    assert scale(flow) == {".minimum": 0, ".maximum": 2, ".idle_after": 300.0, ".up_wait": 0.5}
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS__MAXIMUM", "8")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS__IDLE_AFTER", "60")
    assert scale(flow) == {".minimum": 0, ".maximum": 8, ".idle_after": 60.0, ".up_wait": 0.5}
    monkeypatch.setenv("AQUEDUCT_OCR__EACH__NPROCS__MAXIMUM", "3")
    assert origin(settings(flow, "step2_Each")["nprocs.minimum"]) == (1, "default")


def test_numbers_of_an_elastic_step(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow(FlowStep(Each(), nprocs=Autoscale(1, 4), name="classify"), name="ocr")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS__MINIMUM", "6")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS__MAXIMUM", "9")  # together they are valid
    assert scale(flow) == {".minimum": 6, ".maximum": 9, ".idle_after": 300.0, ".up_wait": 0.5}
    said = refusal(monkeypatch, flow, AQUEDUCT_OCR__CLASSIFY__NPROCS="3")
    assert "AQUEDUCT_OCR__CLASSIFY__NPROCS=3" in said and "exclude each other: leave out one" in said
    for limit in ("MINIMUM", "MAXIMUM"):
        monkeypatch.delenv(f"AQUEDUCT_OCR__CLASSIFY__NPROCS__{limit}")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", "3")
    assert scale(flow) == {"": 3}


# Where each comes from, and when it is read


def test_the_source_of_each_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", "2")
    monkeypatch.setenv("AQUEDUCT_OTHER__CLASSIFY__NPROC", "many")  # of another service
    flow = make_flow(timing=Timing(hang_after=9))
    found = {setting.option: setting.source for setting in flow.settings if setting.step in (None, "classify")}
    assert found.pop("nprocs") == "environment"
    assert found.pop("batch_size") == found.pop("timing.hang_after") == "code"
    assert set(found.values()) == {"default"}
    monkeypatch.delenv("AQUEDUCT_OCR__CLASSIFY__NPROCS")
    worker = FlowStep(Each(), worker=WorkerOptions(threads=2))
    assert settings(Flow(worker, name="ocr"), "step1_Each")["worker.threads"] == Setting(
        "step1_Each", "worker.threads", 2, "code", "AQUEDUCT_OCR__EACH__WORKER__THREADS"
    )


def test_every_number_of_flows_steps_and_applications_has_a_variable() -> None:
    """A new argument that is a number is found by its annotation."""
    for function, known in (
        (Flow.__init__, {setting.option for setting in make_flow().settings}),
        (FlowStep.__init__, numbers_of(FlowStep.__init__)),
        (Aqueduct.__init__, numbers_of(AppOptions)),
        (UploadLimits, {name.removeprefix("upload_limits.") for name in numbers_of(AppOptions)}),
        (Jobs.__init__, numbers_of(JobOptions)),
        (Recorder.__init__, numbers_of(RecorderOptions)),
    ):
        numbers = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if re.search(r"\b(int|float)\b", str(parameter.annotation))
        ]
        assert numbers and set(numbers) <= set(known), function


def test_the_page_has_every_variable() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    made = [setting.option for setting in [*make_flow().settings, *stars.flow.settings]]
    made += [*numbers_of(AppOptions), *numbers_of(JobOptions), *numbers_of(RecorderOptions)]
    for option in [*made, *(f"nprocs.{name}" for name in numbers_of(Autoscale))]:
        assert f"`{DELIMITER.join(map(part, option.split('.')))}`" in page, option


async def test_a_start_reads_them_and_logs_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastapi_aqueduct")
    flow = make_flow(stop_timeout=3)
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__BATCH_SIZE", "32")
    monkeypatch.setenv("AQUEDUCT_OCR__MEMORY_LIMIT", "4Mi")
    monkeypatch.setenv("AQUEDUCT_OCR__STOP_TIMEOUT", "7")
    async with inline(flow):
        monkeypatch.delenv("AQUEDUCT_OCR__CLASSIFY__BATCH_SIZE")
        assert flow.memory_limit == 4 << 20
        assert flow.stop_timeout == 7
        assert settings(flow, "classify")["batch_size"].value == 32  # as at the start
        await flow.process(Job())
    assert [message for message in caplog.messages if "batch_size" in message or "queue_size" in message] == [
        "flow ocr: memory_limit=4194304 (AQUEDUCT_OCR__MEMORY_LIMIT), stop_timeout=7.0 (AQUEDUCT_OCR__STOP_TIMEOUT), "
        "default: queue_size=1024 queue_priorities=1 start_timeout=300.0",
        "flow ocr, step classify: nprocs=2 (code), batch_size=32 (AQUEDUCT_OCR__CLASSIFY__BATCH_SIZE), default: "
        "batch_timeout=0.0 max_retries=1 handle_timeout=none check_timeout=10.0 max_tasks=none max_tasks_jitter=0 "
        "max_age=none max_memory_growth=none busy_poll=0.0 concurrency=none",
        "flow ocr, step step2_Each: default: nprocs=1 batch_size=1 batch_timeout=0.0 max_retries=1 handle_timeout=none "
        "check_timeout=10.0 max_tasks=none max_tasks_jitter=0 max_age=none max_memory_growth=none busy_poll=0.0 "
        "concurrency=none",
    ]
    assert origin(settings(flow, "classify")["batch_size"]) == (16, "code")  # as a start would have it now
    async with inline(flow):
        assert origin(settings(flow, "classify")["batch_size"]) == (16, "code")


async def test_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers reach the engine, and what looks at a step; a replaced handler stays."""
    flow = forked(FlowStep(Each(), name="classify"), name="ocr")
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", "2")
    async with running(flow):
        assert len(pids(flow)) == flow.steps["classify"].nprocs == 2
        await flow.steps["classify"].replace(Classify())
    assert flow.steps["classify"].handler_class is Classify
    monkeypatch.delenv("AQUEDUCT_OCR__CLASSIFY__NPROCS")
    async with inline(flow):
        assert (flow.steps["classify"].handler_class, flow.steps["classify"].nprocs) == (Classify, 1)


async def test_a_wrong_variable_leaves_a_flow_that_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow()
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", "many")
    with pytest.raises(ConfigurationError, match="is not nprocs"):
        await flow.start_async()
    assert flow.state == "stopped" and flow.steps["classify"].nprocs == 2
    with pytest.raises(ConfigurationError, match="is not nprocs"):
        _ = flow.settings
    monkeypatch.delenv("AQUEDUCT_OCR__CLASSIFY__NPROCS")
    async with inline(flow):
        assert flow.is_running


async def test_the_timeout_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = stars.with_options(priority=0)
    hasty = stars.with_options(timeout_sec=1)
    assert stars.timeout_sec == patient.timeout_sec == 5
    declared = settings(stars.flow)["timeout_sec"]
    assert (*origin(declared), declared.variable) == (5.0, "default", "AQUEDUCT_STARS__TIMEOUT_SEC")
    monkeypatch.setenv("AQUEDUCT_STARS__TIMEOUT_SEC", "9")
    async with inline(stars):
        assert (stars.timeout_sec, patient.timeout_sec, hasty.timeout_sec) == (9, 9, 1)
    monkeypatch.delenv("AQUEDUCT_STARS__TIMEOUT_SEC")
    async with inline(stars):
        assert stars.timeout_sec == 5
    flow = make_flow()
    assert "sets nothing of flow ocr" in refusal(monkeypatch, flow, AQUEDUCT_OCR__TIMEOUT_SEC="9")


# Applications


async def test_numbers_of_an_application(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastapi_aqueduct")
    flow = make_flow()
    aqueduct = Aqueduct(flow, upload_limits=UploadLimits(max_uploads=3))
    monkeypatch.setenv("AQUEDUCT_DRAIN_DELAY", "9")
    monkeypatch.setenv("AQUEDUCT_UPLOAD_LIMITS__MAX_BODY_SIZE", "1Ki")
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "own")
    with inline(flow):
        async with client(FastAPI(lifespan=aqueduct.lifespan)):
            assert aqueduct.upload_limits == UploadLimits(max_uploads=3, max_body_size=1024)
            assert aqueduct._drain._delay == 9
        monkeypatch.delenv("AQUEDUCT_UPLOAD_LIMITS__MAX_BODY_SIZE")
        async with client(FastAPI(lifespan=aqueduct.lifespan)):
            assert aqueduct.upload_limits == UploadLimits(max_uploads=3)
    assert (
        "application: drain_delay=9.0 (AQUEDUCT_DRAIN_DELAY), upload_limits.max_body_size=1024 "
        "(AQUEDUCT_UPLOAD_LIMITS__MAX_BODY_SIZE), upload_limits.max_uploads=3 (code)"
    ) in caplog.messages


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "AQUEDUCT_DRAIN_DELAY",
            "-1",
            "environment variable AQUEDUCT_DRAIN_DELAY=-1: drain_delay must not be negative",
        ),
        ("AQUEDUCT_DRAIN_DELAY", "9s", "AQUEDUCT_DRAIN_DELAY=9s is not drain_delay of the application"),
        ("AQUEDUCT_UPLOAD_LIMITS__MAX_SIZE", "1", "did you mean AQUEDUCT_UPLOAD_LIMITS__MAX_BODY_SIZE"),
        ("AQUEDUCT_UPLOAD_LIMITS__GRACE", "0", "grace must be positive"),
        ("AQUEDUCT_UPLOAD_LIMITS__MAX_UPLOADS", "-1", "UploadLimits needs max_uploads >= 0"),
    ],
)
async def test_mistakes_in_those_of_an_application(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, said: str
) -> None:
    monkeypatch.setenv(variable, text)
    flow = make_flow()
    with inline(flow), pytest.raises(ConfigurationError, match=re.escape(said)):
        async with Aqueduct(flow).run(FastAPI()):
            pass
    assert flow.state == "stopped"


# Mistakes


def test_all_mistakes_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(
        monkeypatch,
        make_flow(),
        AQUEDUCT_OCR__CLASSIFY__NPROC="4",
        AQUEDUCT_OCR__CLASIFY__NPROCS="4",
        AQUEDUCT_OCR__QUEUE="4",
        AQUEDUCT_OCR__MEMORY_LIMIT="512m",
    )
    first, *lines = said.splitlines()
    assert first == "wrong environment variables:"
    by_variable = {re.split("[ =]", line.strip())[0]: line.strip() for line in lines}
    assert len(by_variable) == 4
    assert by_variable["AQUEDUCT_OCR__CLASSIFY__NPROC"] == (
        "AQUEDUCT_OCR__CLASSIFY__NPROC sets nothing of step classify of flow ocr, did you mean "
        "AQUEDUCT_OCR__CLASSIFY__NPROCS? After AQUEDUCT_OCR__CLASSIFY__ comes one of NPROCS, NPROCS__..., BATCH_SIZE, "
        "BATCH_TIMEOUT, MAX_RETRIES, HANDLE_TIMEOUT, CHECK_TIMEOUT, MAX_TASKS, MAX_TASKS_JITTER, MAX_AGE, "
        "MAX_MEMORY_GROWTH, BUSY_POLL, CONCURRENCY, WORKER__...; there are also AQUEDUCT_OCR__..., "
        "AQUEDUCT_OCR__EACH__..."
    )
    assert "did you mean AQUEDUCT_OCR__CLASSIFY__NPROCS?" in by_variable["AQUEDUCT_OCR__CLASIFY__NPROCS"]
    queue = by_variable["AQUEDUCT_OCR__QUEUE"]
    assert "After AQUEDUCT_OCR__ comes one of QUEUE_SIZE, QUEUE_PRIORITIES, MEMORY_LIMIT, " in queue
    assert queue.endswith("there are also AQUEDUCT_OCR__CLASSIFY__..., AQUEDUCT_OCR__EACH__...")
    limit = by_variable["AQUEDUCT_OCR__MEMORY_LIMIT"]
    assert limit.endswith("it must be a whole number such as 4 or 512Mi, or none")


@pytest.mark.parametrize(
    "name", ["AQUEDUCT_OCR_QUEUE_SIZE", "AQUEDUCT_OCR_CLASSIFY_NPROCS", "aqueduct_ocr__queue_size"]
)
def test_a_variable_that_differs_in_underscores_or_case_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "4")
    assert "environment" not in {setting.source for setting in make_flow().settings}
    (message,) = caplog.messages
    assert re.fullmatch(
        f"the environment variable {name} is not read; the one that is read is AQUEDUCT_OCR__[A-Z_]+", message
    )


def test_what_is_none_of_its_variables_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as those of other flows, of the package, and of Kubernetes for a Service named aqueduct-ocr."""
    for name in (
        *("AQUEDUCT_PIPELINE", "AQUEDUCT_DRAIN_DELAY", "AQUEDUCT_UPLOAD_LIMITS__GRACE", "AQUEDUCT_STARS__NPROCS"),
        *("AQUEDUCT_OCR_SERVICE_HOST", "AQUEDUCT_OCR_PORT_80_TCP_ADDR", "AQUEDUCT_OCR_V2__CLASSIFY__NPROCS"),
        *("AQUEDUCT_OCR_CLASSIFY__NPROCS", "OCR__NPROCS", "AQUEDUCT"),
    ):
        monkeypatch.setenv(name, "nothing")
    assert {setting.source for setting in make_flow().settings} == {"default", "code"}
    assert not caplog.messages
