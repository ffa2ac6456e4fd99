"""Workers, queues, shared memory and tasks, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, make_asgi_app
from prometheus_client.parser import text_string_to_metric_families
from prometheus_fastapi_instrumentator import Instrumentator

from fastapi_aqueduct import Aqueduct, Flow, FlowStep, flow_endpoint
from fastapi_aqueduct.asgi import errors
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.exceptions import (
    ArenaFull,
    DeadlineUnreachable,
    ForkedError,
    NotRunningError,
    Overloaded,
    QueueFull,
    StepUnavailable,
    TaskTooLarge,
    TenantOverShare,
    reason_of,
)
from fastapi_aqueduct.metrics.families import REASONS
from fastapi_aqueduct.metrics.prometheus import AqueductCollector
from fastapi_aqueduct.testing import client

from ..asgi.handlers import Adder, Held, HeldPicture, Hold, Sum
from ..handlers import Gate
from ..support import DEADLINE, eventually, pids, script_environment


def read(text: str) -> dict[str, float]:
    """Read the samples of the package: name and values of the labels, sorted by label."""
    return {
        " ".join([sample.name, *(sample.labels[label] for label in sorted(sample.labels))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("aqueduct_")
    }


async def test_under_the_instrumentator(tmp_path: Path) -> None:
    """Its page shows its own metrics and ours while the application runs, and ours no longer than that."""
    flow = Flow(FlowStep(Hold(), nprocs=1), name="pictures")
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    Instrumentator().instrument(app).expose(app)

    @app.post("/hold")
    @flow_endpoint(flow, timeout_sec=30)
    async def hold(task: HeldPicture) -> int:
        return len(task.image)

    for name in ("first", "second"):
        gate = Gate(tmp_path, name)
        async with client(app) as http:
            path = f"/hold?gate={tmp_path}&name={name}"
            pending = asyncio.create_task(http.post(path, content=bytes(100_000)))
            await eventually(gate.is_entered)
            text = (await http.get("/metrics")).text
            samples = read(text)
            assert samples["aqueduct_workers pictures ready step1_Hold"] == 1
            assert samples["aqueduct_workers pictures dead step1_Hold"] == 0
            assert samples["aqueduct_queue_length pictures step1_Hold"] == 0
            assert samples["aqueduct_worker_restarts_total signal pictures step1_Hold"] == 0
            assert samples["aqueduct_step_broken pictures step1_Hold"] == 0
            assert samples["aqueduct_step_given_up pictures step1_Hold"] == 0
            assert 100_000 <= samples["aqueduct_arena_bytes pictures used"]
            assert samples["aqueduct_arena_bytes pictures used"] <= samples["aqueduct_arena_bytes pictures touched"]
            assert samples["aqueduct_arena_bytes pictures touched"] < samples["aqueduct_arena_bytes pictures limit"]
            assert samples["aqueduct_arena_bytes pictures free"] == (
                samples["aqueduct_arena_bytes pictures touched"] - samples["aqueduct_arena_bytes pictures used"]
            )
            assert samples["aqueduct_arena_bytes pictures leased"] >= 0
            assert samples["aqueduct_arena_bytes pictures retained"] == 0
            assert samples["aqueduct_tasks_in_flight pictures"] == 1
            assert samples["aqueduct_tasks_total pictures completed"] == 0
            gate.open()
            assert (await pending).json() == 100_000
            text = (await http.get("/metrics")).text
            assert read(text)["aqueduct_tasks_total pictures completed"] == 1
            assert "http_requests_total" in text
        assert not read(generate_latest(REGISTRY).decode())


async def test_deaths_are_counted(tmp_path: Path) -> None:
    """A replaced worker, and the task that was tried again; and that workers die too often."""
    gate = Gate(tmp_path)
    flow = Flow(Hold())
    registry = CollectorRegistry()
    registry.register(AqueductCollector([flow]))
    async with flow:
        held = asyncio.create_task(flow.process(Held(tmp_path), DEADLINE))
        await eventually(gate.is_entered)
        os.kill(pids(flow)[0], signal.SIGKILL)
        gate.open()  # after the kill, or the first worker may answer; the second time it is done
        await held
        await eventually(lambda: pids(flow))
        samples = read(generate_latest(registry).decode())
        assert samples["aqueduct_worker_restarts_total signal flow step1_Hold"] == 1
        assert samples["aqueduct_task_retries_total flow step1_Hold"] == 1
        assert samples["aqueduct_workers flow ready step1_Hold"] == 1
        assert samples["aqueduct_tasks_total flow completed"] == 1


async def test_step_that_is_broken_and_workers_that_are_worn() -> None:
    """Both at once."""
    timing = Timing(quick_load=0.0)  # every load counts as a dear one
    flow = Flow(FlowStep(Adder(), nprocs=6), FlowStep(Adder(), max_tasks=1), timing=timing)
    registry = CollectorRegistry()
    registry.register(AqueductCollector([flow]))
    async with flow:
        await flow.process(Sum(1))
        await eventually(lambda: flow.statistics().steps[1].recycled == 1)
        for _ in range(2):
            await eventually(lambda: len(pids(flow)) == 6)
            for pid in pids(flow):
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not pids(flow))
        samples = read(generate_latest(registry).decode())
    assert samples["aqueduct_worker_recycles_total flow tasks step2_Adder"] == 1
    assert samples["aqueduct_worker_recycles_total flow tasks step1_Adder"] == 0
    assert samples["aqueduct_step_broken flow step1_Adder"] == 1
    assert samples["aqueduct_step_broken flow step2_Adder"] == 0
    assert samples["aqueduct_step_given_up flow step1_Adder"] == 0


async def test_refusals_by_reason() -> None:
    """Each reason is there before the first refusal, else a rate would miss that."""
    flow = Flow(Adder())
    registry = CollectorRegistry()
    registry.register(AqueductCollector([flow]))
    for count in (0, 1):
        samples = read(generate_latest(registry).decode())
        assert samples["aqueduct_refusals_total flow not_running"] == count
        assert samples["aqueduct_refusals_total flow queue_full"] == 0
        with pytest.raises(NotRunningError):
            await flow.process(Sum(1))


def test_the_reasons_of_refusals() -> None:
    """All that a flow, or an endpoint for it, counts as a refusal."""
    bodies = [kind for name, kind in vars(errors).items() if name != "BodyError" and isinstance(kind, type)]
    refused: list[type[Exception]] = [kind for kind in bodies if issubclass(kind, errors.BodyError)]
    refused += [ArenaFull, DeadlineUnreachable, ForkedError, NotRunningError, Overloaded, QueueFull, StepUnavailable]
    refused += [TaskTooLarge, TenantOverShare]
    assert {reason_of(kind.__new__(kind)) for kind in refused} == set(REASONS)


def test_flows_that_share_a_name() -> None:
    """They are told apart, since Prometheus refuses a page with two samples of one name."""
    registry = CollectorRegistry()
    registry.register(AqueductCollector([Flow(Adder()), Flow(Adder(), name="other"), Flow(Hold())]))
    samples = read(generate_latest(registry).decode())
    assert {name.split()[1] for name in samples} == {"flow1", "other", "flow2"}


def test_a_number_that_makes_the_name_of_another_flow() -> None:
    """It is left out."""
    registry = CollectorRegistry()
    registry.register(AqueductCollector([Flow(Adder()), Flow(Adder()), Flow(Adder(), name="flow1")]))
    assert {name.split()[1] for name in read(generate_latest(registry).decode())} == {"flow1", "flow2", "flow3"}


def shown(text: str) -> set[str]:
    """Return the flows that a page shows; it shows each of our metrics once, and each sample once."""
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("aqueduct_")]
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = [(item.name, tuple(item.labels.items())) for family in families for item in family.samples]
    assert len(samples) == len(set(samples))
    headers = [line for line in text.splitlines() if line.startswith(("# TYPE aqueduct_", "# HELP aqueduct_"))]
    assert len(headers) == len(set(headers)) == 2 * len(names)
    of_family = [{item.labels["flow"] for item in family.samples} for family in families]
    assert all(flows == of_family[0] for flows in of_family)
    return of_family[0] if of_family else set()


async def test_two_applications_in_one_process() -> None:
    """Show each metric once, over HTTP, in whichever order they start and stop; a flow keeps its label meanwhile."""
    common, first, second = Flow(Adder(), name="common"), Flow(Adder()), Flow(Adder())
    one = FastAPI(lifespan=Aqueduct(common, first).lifespan)
    two = FastAPI(lifespan=Aqueduct(second, common).lifespan)
    for app in (one, two):
        app.mount("/metrics", make_asgi_app())
    async with common:
        for order in ((one, two), (two, one)):
            for ends in ((0, 1), (1, 0)):
                stacks = AsyncExitStack(), AsyncExitStack()
                pairs = zip(stacks, order, strict=True)
                clients = [await stack.enter_async_context(client(app)) for stack, app in pairs]
                for http in clients:
                    assert shown((await http.get("/metrics/")).text) == {"common", "flow", "flow2"}
                await stacks[ends[0]].aclose()
                page = await clients[ends[1]].get("/metrics/")
                assert shown(page.text) == {"common", "flow2" if ends[1] else "flow"}
                await stacks[ends[1]].aclose()
                assert not shown(generate_latest(REGISTRY).decode())


def test_the_collector_needs_no_web_framework() -> None:
    """It works beside any program."""
    code = (
        "import sys, fastapi_aqueduct.metrics.prometheus\n"
        "print([name for name in ('fastapi', 'starlette', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout.strip() == "[]"
