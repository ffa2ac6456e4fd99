"""The values that Prometheus reads, for a known load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fastapi_aqueduct import Flow, FlowStep, WorkerDied
from fastapi_aqueduct.engine.statistics import DeathCause, StepLoad
from fastapi_aqueduct.engine.system.process_memory import private_memory
from fastapi_aqueduct.engine.system.process_usage import process_usage
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.metrics import families
from fastapi_aqueduct.metrics.prometheus import AqueductCollector

from .. import handlers
from ..engine.streaming import items_of
from ..handlers import Each, Gate, InLoop, Job, StartingOnce, Yielding
from ..support import DEADLINE, ROOT, eventually, outcome, pids, running, script_environment

NAP = 0.05

RESTARTS = "aqueduct_worker_restarts_total "


class Page:
    """What Prometheus reads of a flow, in both formats.

    Args:
        flow: The flow.
    """

    def __init__(self, flow: Flow) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(AqueductCollector([flow]))

    def read(self) -> dict[str, float]:
        """Return the samples: their names and the values of their labels, without the flow."""
        samples = {}
        for family in text_string_to_metric_families(generate_latest(self._registry).decode()):
            for sample in family.samples:
                values = [value for label, value in sorted(sample.labels.items()) if label != "flow"]
                samples[" ".join([sample.name, *values])] = sample.value
        return samples

    def read_openmetrics(self) -> set[str]:
        """Return the names of the metrics; the parser checks buckets, counts and sums."""
        text = generate_openmetrics(self._registry).decode()  # type: ignore[no-untyped-call]
        return {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]


async def test_each_value_is_that_of_the_load() -> None:
    flow = Flow(
        FlowStep(Each(handlers.add_one, handlers.nap), name="nap"),
        FlowStep(Each(handlers.add_one), batch_size=4, batch_timeout=0.02, name="batch"),
        FlowStep(Yielding(handlers.count_up), concurrency=4, name="items"),
    )
    page = Page(flow)
    async with running(flow):
        await asyncio.gather(*[flow.process(Job(number=0, count=3, seconds=NAP)) for _ in range(10)])
        await items_of(flow.stream(Job(number=0, count=3, seconds=NAP)))
        assert isinstance(await outcome(flow.process(Job(number=None))), TypeError)
        samples = page.read()
        names = page.read_openmetrics()
    assert samples["aqueduct_tasks_total completed"] == samples["aqueduct_total_time_seconds_count"] == 11
    assert samples["aqueduct_tasks_total failed"] == 1
    assert samples["aqueduct_tasks_in_flight"] == samples["aqueduct_uploads_arriving"] == 0
    assert samples["aqueduct_first_item_seconds_count"] == 1
    assert samples["aqueduct_item_interval_seconds_count"] == 2
    assert samples["aqueduct_queue_wait_seconds_count nap"] == samples["aqueduct_handle_time_seconds_count nap"] == 12
    # Only the call that failed can be shorter than the nap.
    assert samples["aqueduct_handle_time_seconds_bucket 0.05 nap"] <= 1
    assert samples["aqueduct_handle_time_seconds_bucket +Inf nap"] == 12
    assert samples["aqueduct_batch_size_sum batch"] == samples["aqueduct_queue_wait_seconds_count batch"] == 11
    calls = samples["aqueduct_batch_size_count batch"]
    assert calls == samples["aqueduct_handle_time_seconds_count batch"] >= 3
    assert samples["aqueduct_batch_delay_seconds_count batch"] == calls
    assert samples["aqueduct_handle_time_seconds_count items"] == 11
    assert not any(name.startswith("aqueduct_transfer_time") and name.endswith(" items") for name in samples)
    assert samples["aqueduct_log_records_dropped_total nap"] == 0
    assert not any(name.startswith("aqueduct_failures") for name in samples)  # there is no recorder
    assert samples["aqueduct_expected_wait_seconds nap"] > NAP / 2
    for step in flow.steps:
        assert samples[f"aqueduct_workers ready {step}"] == 1
        assert 0 < samples[f"aqueduct_busy_seconds_total {step}"] <= samples[f"aqueduct_ready_seconds_total {step}"]
        assert 0 < samples[f"aqueduct_busy_share {step}"] <= 1
        assert samples[f"aqueduct_worker_private_memory_bytes {step} 1 0"] > 1 << 20
        assert samples[f"aqueduct_worker_resident_memory_bytes {step} 1 0"] > 1 << 20
        assert samples[f"aqueduct_worker_cpu_seconds_total {step} 1 0"] > 0
    assert samples["aqueduct_busy_seconds_total nap"] == samples["aqueduct_handle_time_seconds_sum nap"] >= 11 * NAP
    assert names >= {"aqueduct_busy_seconds", "aqueduct_queue_wait_seconds", "aqueduct_worker_cpu_seconds"}


async def test_a_scrape_in_the_middle_of_a_storm_is_consistent() -> None:
    """From another thread, as of an endpoint that is a plain function."""
    flow = Flow(FlowStep(Each(handlers.add_one), batch_size=8), FlowStep(Each(handlers.add_one), nprocs=2))
    page = Page(flow)
    has_ended = threading.Event()
    pages: list[dict[str, float]] = []

    def scrape() -> None:
        while not has_ended.is_set():
            pages.append(page.read())
            page.read_openmetrics()

    async def call() -> int:
        count = 0
        while len(pages) < 5:
            await flow.process(Job(number=0), DEADLINE)
            count += 1
        return count

    async with running(flow):
        scraper = asyncio.create_task(asyncio.to_thread(scrape))
        count = sum(await asyncio.gather(*[call() for _ in range(32)]))
        has_ended.set()
        await scraper
        pages.append(page.read())
    for before, after in pairwise(pages):
        for name, value in before.items():
            if "_total" in name or "_bucket" in name or "_count" in name or "_sum" in name:
                assert after[name] >= value, name
    assert pages[-1]["aqueduct_total_time_seconds_count"] == count
    for step in flow.steps:
        assert pages[-1][f"aqueduct_queue_wait_seconds_count {step}"] == count
    assert pages[-1]["aqueduct_batch_size_sum step1_Each"] == count


def load_of(flow: Flow) -> StepLoad:
    load = flow.statistics().steps[0].load
    assert load is not None
    return load


async def test_a_call_under_way_makes_its_worker_busy_and_its_death_is_counted(tmp_path: Path) -> None:
    """So that a long call is seen before it ends; the busy time of a dead worker is not lost, or it would decrease."""
    flow = Flow(FlowStep(Each(handlers.enter_gate_if_any), max_retries=0))
    page = Page(flow)
    gate = Gate(tmp_path)
    async with running(flow):
        first = asyncio.create_task(outcome(flow.process(Job(gate=gate), DEADLINE)))
        await eventually(gate.is_entered)
        before = load_of(flow)
        await eventually(lambda: load_of(flow).busy_time > before.busy_time + 0.05)
        busy = load_of(flow)
        assert busy.busy_share > before.busy_share
        os.kill(pids(flow)[0], signal.SIGKILL)
        await first
        await eventually(lambda: pids(flow))
        await flow.process(Job())
        assert busy.busy_time <= load_of(flow).busy_time < busy.busy_time + DEADLINE
        samples = page.read()
    assert samples["aqueduct_worker_restarts_total signal step1_Each"] == 1
    assert sum(value for name, value in samples.items() if name.startswith("aqueduct_worker_restarts_total")) == 1


async def test_places_of_calls_side_by_side_are_parts_of_a_worker(tmp_path: Path) -> None:
    """One of four is taken: the worker is busy to a quarter."""
    flow = Flow(FlowStep(InLoop(handlers.enter_gate_in_loop), concurrency=4))
    gate = Gate(tmp_path)
    async with running(flow):
        held = asyncio.create_task(flow.process(Job(gate=gate), DEADLINE))
        await eventually(gate.is_entered)
        before = load_of(flow)
        await eventually(lambda: load_of(flow).ready_time > before.ready_time + 0.1)
        after = load_of(flow)
        gate.open()
        await held
    share = (after.busy_time - before.busy_time) / (after.ready_time - before.ready_time)
    assert share == pytest.approx(0.25, rel=0.02)


async def test_restarts_are_counted_by_cause_also_without_measurements(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    step = FlowStep(Each(handlers.end_process), max_retries=0, handle_timeout=1)
    flow = Flow(
        *(step, StartingOnce(handlers.fail_to_load, broken)), metrics_enabled=False, timing=Timing(first_wait=0.05)
    )
    page = Page(flow)
    async with running(flow):
        broken.touch()
        os.kill(pids(flow, 1)[0], signal.SIGKILL)
        for cause in ("exit", "signal", "hang"):
            assert isinstance(await outcome(flow.process(Job(cause=cause), DEADLINE)), WorkerDied)
        await eventually(lambda: flow.statistics().steps[1].restarts_by_cause[DeathCause.START])
        broken.unlink()
        await eventually(lambda: pids(flow, 1))
        samples = page.read()
    restarts = {name.removeprefix(RESTARTS): value for name, value in samples.items() if name.startswith(RESTARTS)}
    assert {name for name, value in restarts.items() if not value} == {
        *("start step1_Each", "memory step1_Each", "protocol step1_Each", "hang step2_StartingOnce"),
        *("exit step2_StartingOnce", "memory step2_StartingOnce", "protocol step2_StartingOnce"),
    }
    assert restarts["exit step1_Each"] == restarts["signal step1_Each"] == restarts["hang step1_Each"] == 1
    assert restarts["signal step2_StartingOnce"] == 1
    assert not any("busy" in name or "_bucket" in name for name in samples)
    assert samples["aqueduct_tasks_total failed"] == 3


def test_the_usage_of_a_process() -> None:
    """Of this one, whose numbers other functions know."""
    usage = process_usage(os.getpid())
    assert usage is not None
    assert usage.cpu_time == pytest.approx(time.process_time(), abs=0.5)
    private = private_memory(os.getpid())
    assert private is not None
    assert usage.private == pytest.approx(private, rel=0.2)
    assert usage.private < usage.resident
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert process_usage(process.pid) is None


def test_a_warning_says_once_that_the_multiprocess_mode_shows_no_flows(tmp_path: Path) -> None:
    source = """
        from fastapi_aqueduct import Flow
        from fastapi_aqueduct.metrics.prometheus import publication
        from tests.handlers import Each

        flow = Flow(Each())
        for _ in range(2):
            publication.add([flow])()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**script_environment(), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.stderr.count("PROMETHEUS_MULTIPROC_DIR is set") == 1


def test_the_page_on_metrics_has_each_with_its_type_and_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(aqueduct_\w+)`(?: †)? \|(?: (\w+) \|)?((?: ?`\w+`,?)+) \|", page, re.MULTILINE)
    described = {name: (kind or "histogram", re.findall(r"\w+", labels)) for name, kind, labels in rows}
    shown = {}
    for group, labels in (
        (families._OF_STEPS, ["flow", "step"]),
        (families._OF_WORKERS, ["flow", "step", "worker", "version"]),
        (families._OF_FLOWS, ["flow"]),
        (families._OF_JOBS, ["flow"]),
    ):
        for family in group:
            kind = family.type.__name__.removesuffix("MetricFamily").lower()
            name = family.name + "_total" * (kind == "counter")
            shown[name] = kind, [*labels, family.label] if family.label else labels
    assert described == shown
