"""Spans of OpenTelemetry: of uploads, queues and steps, and those of handlers below them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI
from opentelemetry import baggage, context
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import StatusCode, format_span_id

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, TaskTimeout, flow_endpoint
from fastapi_aqueduct.testing import client

from ..handlers import Each, Gate, Job, act_at_once
from ..shared.pipeline import sharing
from ..support import DEADLINE, engine_of, eventually, outcome, pids, running, script_environment
from .traced import Branch, Clip, Coroutine, Form, Generator, Load, Plain, Rounds, set_up_sdk


class SpanFacts(NamedTuple):
    """What the tests look at, of a span of any process.

    Attributes:
        name: Its name.
        id: Its id.
        trace: Id of its trace.
        parent: Id of its parent.
        attributes: Its attributes.
    """

    name: str
    id: str
    trace: str
    parent: str | None
    attributes: dict[str, Any]


class Faulty(SpanProcessor):
    """A processor that can be broken for the spans of flows."""

    is_broken = False

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Fail if it is broken."""
        if self.is_broken and span.name.startswith(("queue", "step", "upload")):
            raise RuntimeError("broken")


@dataclass(frozen=True)
class Traces:
    """A running flow whose spans are collected.

    Attributes:
        flow: The flow.
        provider: The provider of this process.
        exporter: Has the spans of this process.
        path: The file with the spans of its workers.
        faulty: A processor of the provider.
    """

    flow: Flow
    provider: TracerProvider
    exporter: InMemorySpanExporter
    path: Path
    faulty: Faulty

    def request(self) -> Any:
        """Return a context that makes the span of a request."""
        return self.provider.get_tracer("tests").start_as_current_span("request")

    def find(self, name: str) -> list[ReadableSpan]:
        """Return the spans of this process with a name, in the order in which they have ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of this process with a name."""
        (span,) = self.find(name)
        return span

    def everywhere(self) -> list[SpanFacts]:
        """Return the spans of all processes."""
        here = [json.loads(span.to_json()) for span in self.exporter.get_finished_spans()]
        there = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [
            SpanFacts(
                span["name"],
                span["context"]["span_id"],
                span["context"]["trace_id"],
                span["parent_id"],
                span["attributes"],
            )
            for span in here + there
        ]

    def tree(self) -> dict[str, str]:
        """Return the name of the parent by the name of each span, where the names are different."""
        spans = self.everywhere()
        names = {span.id: span.name for span in spans}
        assert len({span.trace for span in spans}) == 1
        assert len({span.name for span in spans}) == len(spans)
        return {span.name: names[span.parent] for span in spans if span.parent}


def make_traces(path: Path, *steps: Any, **options: Any) -> Traces:
    """Make a flow that is not running yet, of some steps."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(ParentBased(ALWAYS_ON))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    faulty = Faulty()
    provider.add_span_processor(faulty)
    flow = Flow(*steps, name="clips", tracing=provider, worker_init=partial(set_up_sdk, path), **options)
    return Traces(flow, provider, exporter, path, faulty)


@pytest.fixture(scope="module")
def running_flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    traces = make_traces(
        tmp_path_factory.mktemp("spans") / "spans",
        FlowStep(Load(), name="load"),
        FlowStep(Plain(), name="plain", handle_condition=Form("plain")),
        FlowStep(Plain(), name="batch", handle_condition=Form("batch"), batch_size=3, batch_timeout=5.0),
        FlowStep(Rounds(), name="rounds", handle_condition=Form("rounds"), batch_size=2, batch_timeout=5.0),
        FlowStep(Generator(), name="generator", handle_condition=Form("generator"), concurrency=2),
        FlowStep(Coroutine(), name="coroutine", handle_condition=Form("coroutine")),
    )
    traces.flow.start()
    yield traces
    asyncio.run(traces.flow.stop())


@pytest.fixture
def traces(running_flow: Traces) -> Traces:
    running_flow.exporter.clear()
    running_flow.path.write_text("")
    return running_flow


def application(flow: Flow, **settings: Any) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan, **settings)

    @app.post("/clips")
    @flow_endpoint(flow, max_body_size=1000)
    async def post(task: Clip) -> int:
        return task.size

    return app


# Together with what observes requests


async def test_spans_are_below_those_of_fastapi(traces: Traces) -> None:
    app = application(traces.flow, telemetry={"tracer_provider": traces.provider})
    async with client(app) as http:
        assert (await http.post("/clips", content=bytes(500))).json() == 500
    tree = traces.tree()
    assert tree.pop("fastapi.endpoint") == "POST /clips"
    ours = {"upload clips", "queue load", "step load", "queue plain", "step plain"}
    assert {name for name, parent in tree.items() if parent == "fastapi.endpoint"} == ours
    assert tree["load"] == "step load"
    assert tree["work"] == "step plain"
    assert dict(traces.one("upload clips").attributes or {}) == {
        "aqueduct.flow": "clips",
        "http.request.body.size": 500,
    }


async def test_spans_are_below_those_of_the_instrumentation(traces: Traces) -> None:
    app = application(traces.flow, telemetry={"tracer_provider": traces.provider})
    FastAPIInstrumentor.instrument_app(app, tracer_provider=traces.provider, exclude_spans=["receive", "send"])
    try:
        async with client(app) as http:
            assert (await http.post("/clips", content=bytes(500))).json() == 500
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    assert traces.tree() == {
        "upload clips": "POST /clips",
        "queue load": "POST /clips",
        "step load": "POST /clips",
        "load": "step load",
        "queue plain": "POST /clips",
        "step plain": "POST /clips",
        "work": "step plain",
    }


async def test_an_upload_that_is_refused(traces: Traces) -> None:
    app = application(traces.flow, telemetry={"tracer_provider": traces.provider})

    async def pieces() -> Any:
        for _ in range(3):
            yield bytes(500)

    async with client(app) as http:
        assert (await http.post("/clips", content=pieces())).status_code == 413
    upload = traces.one("upload clips")
    assert upload.status.status_code is StatusCode.ERROR
    assert upload.attributes is not None
    assert upload.attributes["error.type"] == "fastapi_aqueduct.asgi.errors.BodyTooLarge"
    assert "http.request.body.size" not in upload.attributes
    (event,) = traces.one("fastapi.endpoint").events
    assert event.name == "aqueduct.refusal"
    assert event.attributes is not None
    assert event.attributes["aqueduct.reason"] == "body_too_large"


async def test_a_call_that_is_refused() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("tests").start_as_current_span("request"):
        for tracing in (False, provider):
            error = await outcome(Flow(Load(), name="clips", tracing=tracing).process(Job()))
    (request,) = exporter.get_finished_spans()
    (event,) = request.events
    assert event.attributes == {
        "aqueduct.flow": "clips",
        "aqueduct.reason": "not_running",
        "exception.message": str(error),
    }


# Which tasks are traced


async def test_outside_of_spans_nothing_is_traced(traces: Traces) -> None:
    await traces.flow.process(Job(form="plain"))
    assert not traces.exporter.get_finished_spans()
    work = [span for span in traces.everywhere() if span.name == "work"]
    assert [span.parent for span in work] == [None]


async def test_a_request_that_is_not_sampled_is_sampled_nowhere(traces: Traces) -> None:
    with TracerProvider(ALWAYS_OFF).get_tracer("tests").start_as_current_span("request"):
        await traces.flow.process(Job(form="plain"))
    assert not traces.everywhere()


async def test_baggage_reaches_the_handlers(traces: Traces) -> None:
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    try:
        await traces.flow.process(Job(form="plain"))
    finally:
        context.detach(token)
    assert [span.attributes for span in traces.everywhere() if span.name == "work"] == [
        {"baggage": '{"tenant": "blue"}'}
    ]


async def test_calls_from_threads_are_traced(traces: Traces) -> None:
    traces.flow.adopt()
    with traces.request():
        await asyncio.to_thread(traces.flow.process_blocking, Job(form="plain"))
    assert traces.tree()["work"] == "step plain"
    assert traces.tree()["step plain"] == "request"


async def test_tracing_can_be_switched_off() -> None:
    provider = TracerProvider()
    with provider.get_tracer("tests").start_as_current_span("request"):
        assert Flow(Load(), tracing=False).tracing.begin() is None
        assert Flow(Load(), tracing=provider).tracing.begin() is not None


def test_opentelemetry_is_not_imported_for_a_flow() -> None:
    script = (
        "import sys; from fastapi_aqueduct import Flow; from tests.handlers import Heavy; flow = Flow(Heavy(1));"
        "print(flow.tracing.begin(), [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=script_environment(), capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout == "None []\n", done.stderr


# What the spans tell


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span without the prefix of most."""
    return {name.removeprefix("aqueduct."): value for name, value in (span.attributes or {}).items()}


async def test_the_attributes_and_times_of_a_task(traces: Traces) -> None:
    with traces.request():
        await traces.flow.process(Job(form="plain"))
    names = ["queue load", "step load", "queue plain", "step plain"]
    spans = [traces.one(name) for name in names]
    assert [facts(span) for span in spans[::2]] == [
        {"flow": "clips", "step": "load"},
        {"flow": "clips", "step": "plain"},
    ]
    step = facts(spans[3])
    assert step.pop("worker_pid") in pids(traces.flow, 1)
    assert step.pop("task_id") == facts(spans[1])["task_id"]
    assert 0 < step.pop("handle_time") < 1
    assert step == {"flow": "clips", "step": "plain", "batch_size": 1, "outcome": "completed"}
    assert "outcome" not in facts(spans[1])
    times = times_in_order(traces)
    work = next(json.loads(line) for line in traces.path.read_text().splitlines() if '"work"' in line)
    assert times[-2] <= nanoseconds(work["start_time"])
    assert nanoseconds(work["end_time"]) <= times[-1]


def times_in_order(traces: Traces) -> list[int]:
    """Return when the spans of the steps of a task began and ended: one after the other, within the request."""
    spans = map(traces.one, ["queue load", "step load", "queue plain", "step plain"])
    times = [time for span in spans for time in (span.start_time or 0, span.end_time or 0)]
    assert times == sorted(times)
    request = traces.one("request")
    assert (request.start_time or 0) <= times[0]
    assert times[-1] <= (request.end_time or 0)
    return times


def nanoseconds(text: str) -> int:
    """Read the time of a span in its JSON, which has microseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000 + 500


async def test_an_exception_of_a_handler(traces: Traces) -> None:
    with traces.request():
        await outcome(traces.flow.process(Job(form="plain", act="raise", at=0)))
    span = traces.one("step plain")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: at 0"
    assert facts(span)["error.type"] == "ValueError"
    assert facts(span)["outcome"] == "failed"
    (event,) = span.events
    assert event.attributes is not None
    assert "act_in_round" in str(event.attributes["exception.stacktrace"])
    assert traces.one("step load").status.status_code is StatusCode.UNSET


async def test_a_timeout_in_a_handler_and_one_in_the_queue(traces: Traces, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with traces.request():
        await asyncio.gather(
            *[outcome(traces.flow.process(Job(form="plain", gate=gate), timeout_sec=1)) for _ in range(3)]
        )
    gate.open()
    await eventually(lambda: not traces.flow.statistics().steps[1].workers[0].in_flight)
    late = [span for span in traces.exporter.get_finished_spans() if facts(span).get("outcome") == "timed_out"]
    assert {span.name for span in late} <= {"step plain", "queue plain"}
    assert len(late) == 3
    for span in late:
        assert facts(span)["error.type"] == "fastapi_aqueduct.exceptions.TaskTimeout"
        assert span.status.status_code is StatusCode.ERROR
        assert (span.end_time or 0) - (traces.one("request").start_time or 0) > 0.99e9


async def test_a_cancellation_is_no_error(traces: Traces, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with traces.request():
        call = asyncio.create_task(traces.flow.process(Job(form="plain", gate=gate)))
        await eventually(gate.is_entered)
        call.cancel()
        await asyncio.wait([call])
    gate.open()
    span = traces.one("step plain")
    assert facts(span)["outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_death_of_a_worker(traces: Traces, tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(act_at_once), name="each"), tracing=traces.provider)) as flow:
        with traces.request():
            await flow.process(Job(act="die once", at=0, mark=tmp_path / "mark"), 60)
            await outcome(flow.process(Job(act="die", at=0), 60))
    first, second, third, last = traces.find("step each")
    for span in (first, third, last):
        assert span.status.status_code is StatusCode.ERROR
        assert facts(span)["error.type"] == "fastapi_aqueduct.exceptions.WorkerDied"
    assert [facts(span).get("retry") for span in (first, second, third, last)] == [None, 1, None, 1]
    assert [facts(span).get("outcome") for span in (first, second, third, last)] == [None, "completed", None, "failed"]
    assert facts(first)["worker_pid"] != facts(second)["worker_pid"]
    queue = traces.find("queue each")[1]
    assert queue.start_time == first.end_time
    assert queue.end_time == second.start_time


async def test_tasks_of_a_batch_link_to_the_one_that_has_the_spans_of_the_handler(traces: Traces) -> None:
    async def call() -> None:
        with traces.request():
            await traces.flow.process(Job(form="batch"), 60)

    async def call_unsampled() -> None:
        with TracerProvider(ALWAYS_OFF).get_tracer("tests").start_as_current_span("request"):
            await traces.flow.process(Job(form="batch"), 60)

    await asyncio.gather(call_unsampled(), call(), call())
    steps = traces.find("step batch")
    assert [facts(span)["batch_size"] for span in steps] == [3, 3]
    (work,) = [span for span in traces.everywhere() if span.name == "work"]
    (first,) = [span for span in steps if span.context and f"0x{format_span_id(span.context.span_id)}" == work.parent]
    (second,) = [span for span in steps if span is not first]
    assert not first.links
    assert [link.context for link in second.links] == [first.context]
    assert second.parent is not None and first.parent is not None
    assert second.parent.trace_id != first.parent.trace_id


async def test_tasks_that_share_a_run_link_to_the_one_that_has_begun_it(traces: Traces, tmp_path: Path) -> None:
    """One that leaves before has waited."""
    gate = Gate(tmp_path)
    step = FlowStep(Plain(), name="plain", coalesce_key="key")
    async with running(Flow(step, tracing=traces.provider)) as flow:

        async def call(timeout: float = 60.0) -> Any:
            with traces.request():
                return await outcome(flow.process(Job(key="k", gate=gate), timeout))

        first = asyncio.create_task(call())
        await eventually(gate.is_entered)
        second = asyncio.create_task(call())
        assert isinstance(await call(0.2), TaskTimeout)
        gate.open()
        await asyncio.gather(first, second)
    led, followed = traces.find("step plain")
    assert not led.links and followed.parent is not None and led.parent is not None
    assert [link.context for link in followed.links] == [led.context]
    assert followed.parent.trace_id != led.parent.trace_id
    assert [facts(span)["outcome"] for span in (led, followed)] == ["completed"] * 2
    assert facts(led)["task_id"] != facts(followed)["task_id"]
    assert (followed.start_time or 0) > (led.start_time or 0)
    assert [facts(span).get("outcome") for span in traces.find("queue plain")] == [None, "timed_out", None]


# In a group


@dataclass
class Branched:
    """A running flow with a group, ``first, [left, (right, [up, down], far)], last``, whose spans are collected.

    Attributes:
        traces: The flow and the spans.
        path: A directory of the test.
        count: How many tasks were made.
    """

    traces: Traces
    path: Path
    count: int = 0

    def job(self, setting: str = "", waiting: str = "", failing: str = "", **fields: Any) -> Job:
        """Make a task; each argument has the names of the steps that do that with it."""
        self.count += 1
        gates = {name: Gate(self.path, f"{name}{self.count}") for name in waiting.split()}
        return Job(gates=gates, setting=setting.split(), failing=failing.split(), **fields)

    def begin(self, job: Job) -> asyncio.Task[object]:
        """Begin to process a task in a request of its own."""

        async def process() -> object:
            with self.traces.request():
                return await outcome(self.traces.flow.process(job, DEADLINE))

        return asyncio.create_task(process())

    def has_left(self, name: str) -> bool:
        """Tell whether no task waits for a step or is in its hands."""
        statistics = self.traces.flow.statistics().steps[NAMES.index(name)]
        return not statistics.queued and not statistics.workers[0].in_flight

    def outcomes(self) -> dict[str, tuple[str, str | None]]:
        """Return the outcome and the type of the error of the spans that have one, by their names."""
        found = [(span.name, facts(span)) for span in self.traces.exporter.get_finished_spans()]
        return {name: (fact["outcome"], fact.get("error.type")) for name, fact in found if "outcome" in fact}


NAMES = ("first", "left", "right", "up", "down", "far", "last")


@asynccontextmanager
async def branched(path: Path, *shared: str) -> AsyncIterator[Branched]:
    """Run the flow; tasks share runs of some of its steps."""
    first, left, right, up, down, far, last = (
        FlowStep(Branch(name), name=name, coalesce_key="key" if name in shared else None) for name in NAMES
    )
    traces = make_traces(path / "spans", first, [left, (right, [up, down], far)], last, mp_start_method="forkserver")
    async with running(traces.flow):
        yield Branched(traces, path)


async def entered(gates: dict[str, Gate]) -> None:
    """Wait until handlers wait at all gates."""
    await eventually(lambda: all(gate.is_entered() for gate in gates.values()))


async def test_spans_of_branches_side_by_side(tmp_path: Path) -> None:
    """They are siblings; those of one branch come one after the other."""
    async with branched(tmp_path) as service:
        traces = service.traces
        await service.begin(service.job())
        tree = traces.tree()
        for name in NAMES:
            assert tree.pop(f"queue {name}") == tree.pop(f"step {name}") == "request"
            assert tree.pop(f"work {name}") == f"step {name}"
        assert not tree
        for way in (("first", "left", "last"), ("first", "right", "up", "far", "last"), ("right", "down", "far")):
            spans = [traces.one(f"{kind} {name}") for name in way for kind in ("queue", "step")]
            times = [time for span in spans for time in (span.start_time or 0, span.end_time or 0)]
            assert times == sorted(times)
        assert len({facts(traces.one(f"step {name}"))["task_id"] for name in NAMES}) == 1
        assert service.outcomes() == {"step last": ("completed", None)}


async def test_the_span_of_each_branch_tells_how_it_has_ended(tmp_path: Path) -> None:
    async with branched(tmp_path) as service:
        traces = service.traces
        job = service.job(setting="left far", waiting="far")
        gates = job.gates
        call = service.begin(job)
        await entered(gates)
        await eventually(lambda: service.has_left("left"))
        gates["far"].open()
        await call
        assert service.outcomes() == {"step far": ("failed", "fastapi_aqueduct.exceptions.FieldConflict")}

        traces.exporter.clear()
        job = service.job(waiting="left up", failing="up")
        held = job.gates
        call = service.begin(job)
        await entered(held)
        held["up"].open()
        await call
        assert service.outcomes() == {"step left": ("cancelled", None), "step up": ("failed", "ValueError")}
        assert traces.one("step up").status.status_code is StatusCode.ERROR

        traces.exporter.clear()  # the worker of the step left is at the gate of that task still
        job = service.job(waiting="down")
        gates = job.gates
        call = service.begin(job)
        await entered(gates)
        await eventually(lambda: service.has_left("up"))
        call.cancel()
        await asyncio.wait([call])
        assert service.outcomes() == {"queue left": ("cancelled", None), "step down": ("cancelled", None)}
        gates["down"].open()
        held["left"].open()


async def test_spans_of_runs_that_branches_share(tmp_path: Path) -> None:
    """They are those of the branches; what a worker makes is below the one of the task that has begun the run."""
    shared = ("left", "up", "down")
    async with branched(tmp_path, *shared) as service:
        traces, statistics = service.traces, service.traces.flow.statistics
        job = service.job(waiting="left up down", key="k")
        gates = job.gates
        calls = [service.begin(job)]
        await entered(gates)
        for followers in ([1, 1, 1], [2, 2, 2]):
            calls.append(service.begin(service.job(key="k")))
            await eventually(lambda: [statistics().steps[at].coalesced for at in (1, 3, 4)] == followers)  # noqa: B023
        calls[2].cancel()
        await asyncio.wait(calls[2:])
        assert service.outcomes() == dict.fromkeys([f"queue {name}" for name in shared], ("cancelled", None))
        for gate in gates.values():
            gate.open()
        await asyncio.gather(*calls[:2])
        spans = {span.id: span for span in traces.everywhere()}
        for name in shared:
            led, followed = sorted(traces.find(f"step {name}"), key=lambda span: span.start_time or 0)
            assert led.context is not None and not led.links
            assert [link.context for link in followed.links] == [led.context]
            (work,) = [span for span in spans.values() if span.name == f"work {name}"]
            assert work.parent == f"0x{format_span_id(led.context.span_id)}"
            parents = [span.parent for span in (led, followed) if span.parent is not None]
            assert [spans[f"0x{format_span_id(parent.span_id)}"].name for parent in parents] == ["request"] * 2
            assert parents[0].trace_id != parents[1].trace_id
        assert len(traces.find("step last")) == 2


async def test_spans_of_rounds_and_of_single_tasks_in_them(traces: Traces) -> None:
    with traces.request():
        await asyncio.gather(*[traces.flow.process(Job(form="rounds", number=number), 60) for number in range(2)])
    # The last answer leaves before the call of the handler returns.
    await eventually(lambda: any(span.name == "work" for span in traces.everywhere()))
    spans = traces.everywhere()
    by_name = {span.name: span for span in spans}
    steps = {span.id for span in spans if span.name == "step rounds"}
    assert by_name["work"].parent in steps
    assert {by_name["round 0"].parent, by_name["round 1"].parent} == {by_name["work"].id}
    parents = [{span.parent for span in spans if span.name == f"task {number}"} for number in range(2)]
    assert [len(found) for found in parents] == [1, 1]
    assert set.union(*parents) == steps


@pytest.mark.parametrize("form", ["generator", "coroutine"])
async def test_calls_side_by_side_have_spans_of_their_own(form: str, traces: Traces) -> None:
    async def read(number: int) -> None:
        with traces.request():
            assert [item async for item in traces.flow.stream(Job(form=form, number=number), 60)] == [0, 1, 2]

    await asyncio.gather(*[read(number) for number in range(2)])
    spans = traces.everywhere()
    work = {span.name: span for span in spans if span.name.startswith("work")}
    steps = {span.id: span for span in spans if span.name == f"step {form}"}
    assert {span.parent for span in work.values()} == set(steps)
    for number in range(2):
        assert {span.parent for span in spans if span.name == f"item {number}"} == {work[f"work {number}"].id}
    assert [facts(span)["items"] for span in traces.find(f"step {form}")] == [3, 3]
    for span in traces.find(f"step {form}"):
        assert [event.name for event in span.events] == ["first item"]


async def test_a_defect_of_a_processor_does_not_fail_tasks(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    traces.faulty.is_broken = True
    try:
        with traces.request():
            await traces.flow.process(Job(form="plain"))
    finally:
        traces.faulty.is_broken = False
    assert [record.message for record in caplog.records] == ["the spans of a task cannot be made"]
    assert not engine_of(traces.flow).dispatcher.spans.open


def test_a_defect_of_a_processor_does_not_fail_uploads(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    traces.faulty.is_broken = True
    try:
        with traces.request(), traces.flow.tracing.upload(3):
            pass
        with pytest.raises(ValueError, match="torn"), traces.request(), traces.flow.tracing.upload(3):
            raise ValueError("torn")
    finally:
        traces.faulty.is_broken = False
    assert [record.message for record in caplog.records] == ["the span of an upload cannot be made"] * 2


# With a pipeline elsewhere


async def test_spans_of_a_pipeline_elsewhere_are_made_when_the_answer_has_come(tmp_path: Path) -> None:
    """A worker has a task before its step has a span: what a handler makes is below the span of the request."""
    traces = make_traces(
        tmp_path / "spans",
        FlowStep(Load(), name="load"),
        FlowStep(Plain(), name="plain", handle_condition=Form("plain")),
        FlowStep(Generator(), name="generator", handle_condition=Form("generator")),
        mp_start_method="forkserver",
    )
    async with sharing(traces.flow):
        with traces.request():
            await traces.flow.process(Job(form="plain"), 60)
        tree = traces.tree()
        assert {tree.pop(name) for name in ("load", "work")} == {"request"}
        assert tree == dict.fromkeys(["queue load", "step load", "queue plain", "step plain"], "request")
        assert facts(traces.one("step plain"))["worker_pid"] in pids(traces.flow, 1)
        times_in_order(traces)

        traces.exporter.clear()
        with traces.request():
            assert [item async for item in traces.flow.stream(Job(form="generator", number=0), 60)] == [0, 1, 2]
        step = traces.one("step generator")
        assert facts(step)["items"] == 3
        assert [event.name for event in step.events] == ["first item"]
        assert "items" not in facts(traces.one("step load"))

        traces.exporter.clear()
        with traces.request():
            await outcome(traces.flow.process(Job(form="plain", act="raise", at=0), 60))
        assert traces.one("step load").status.status_code is StatusCode.UNSET
        step = traces.one("step plain")
        assert (facts(step)["outcome"], step.status.description) == ("failed", "ValueError: at 0")

        traces.exporter.clear()
        gate = Gate(tmp_path)
        with traces.request():
            late = await outcome(traces.flow.process(Job(form="plain", gate=gate), timeout_sec=1))
        gate.open()
        assert isinstance(late, TaskTimeout)
        ended = [facts(span) for span in traces.exporter.get_finished_spans() if "outcome" in facts(span)]
        assert [span["outcome"] for span in ended] == ["timed_out"]
