"""Metrics as users of the package ``aqueduct`` collect them; only the name of the package in the imports differs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import statsd

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.exceptions import ConfigurationError, FlowError
from fastapi_aqueduct.metrics import MAIN_PROCESS, Collector, Exporter, MetricsTypes, ToStatsDMetricsExporter
from fastapi_aqueduct.metrics.collect import AqueductMetricsStorage, TasksStats
from fastapi_aqueduct.metrics.export import DummyExporter, StatsDBuffer
from fastapi_aqueduct.metrics.timer import timeit
from fastapi_aqueduct.testing import inline

from ..support import DEADLINE, LongestGap, eventually, pids, wait_until
from .measured import Detect, Picture, Shrink

PERIOD = 0.02


class AqueductStatsd(StatsDBuffer):
    """The adapter of the ancestor's manual."""

    def __init__(self, port: int) -> None:
        self.statsd_client = statsd.StatsClient("127.0.0.1", port)

    def count(self, name: str, value: float | int) -> None:
        self.statsd_client.incr(name, value)

    def timing(self, name: str, value: float | int) -> None:
        self.statsd_client.timing(name, value)

    def gauge(self, name: str, value: float | int) -> None:
        self.statsd_client.gauge(name, value)


class StatsDServer:
    """Receives metrics as a StatsD server does: a datagram for each."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self.received: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)

    def __enter__(self) -> StatsDServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def read(self) -> dict[str, list[tuple[str, float]]]:
        """Return the kinds and values of each metric, of all that has come so far."""
        while True:
            try:
                packet = self._socket.recv(2048).decode()
            except BlockingIOError:
                return self.received
            found = re.fullmatch(r"([\w.-]+):([\d.e+-]+)\|(ms|c|g)", packet)
            assert found is not None, packet
            self.received[found[1]].append((found[3], float(found[2])))

    def values(self, name: str) -> list[float]:
        """Return the values of one metric."""
        return [value for _, value in self.read().get(name, [])]


@pytest.fixture
def server() -> Iterator[StatsDServer]:
    with StatsDServer() as server:
        yield server


class Kept(Exporter):
    """An exporter of a user: keeps every storage that it gets."""

    def __init__(self, **options: Any) -> None:
        super().__init__([], **options)

    def export(self, metrics: AqueductMetricsStorage) -> None:
        self.target.append(metrics)

    @property
    def all(self) -> AqueductMetricsStorage:
        """All of them in one."""
        storage = AqueductMetricsStorage()
        for metrics in self.target:
            storage.extend(metrics)
        return storage


SHRINK, DETECT = "step1_Shrink", "step2_Detect"
IN, BETWEEN, OUT = (
    f"from_{MAIN_PROCESS}_to_{SHRINK}",
    f"from_{SHRINK}_to_{DETECT}",
    f"from_{DETECT}_to_{MAIN_PROCESS}",
)

NAMES = {
    "c processes.running",
    "c tasks.complete",
    "c tasks.timeout",
    *(f"ms batch_{kind}.{DETECT}" for kind in ("size", "time")),
    *(f"ms handle_time.{name}" for name in (SHRINK, DETECT, "total")),
    *(f"ms memory_usage.{name}" for name in ("step0_Shrink", "step1_Detect", "step1_Detect_nprocs_sum")),
    "ms memory_usage.all_memory_usage",
    *(f"ms qsize.{level}{way}" for level in ("", "p_1_") for way in (IN, BETWEEN)),
    *(f"ms {kind}.{way}" for kind in ("task_size", "transfer_time") for way in (IN, BETWEEN, OUT)),
    *(f"ms {kind}.p_1_{way}" for kind in ("task_size", "transfer_time") for way in (IN, BETWEEN, OUT)),
}
"""What aqueduct 1.15 sent for the program below, but for the two lengths of the queue of answers, which is not here."""


async def test_names_and_units_in_statsd(server: StatsDServer) -> None:
    """The names, kinds and units that dashboards are built on, of a flow with batches and priorities."""
    client = AqueductStatsd(server.port)
    exporter = ToStatsDMetricsExporter(client, export_period=PERIOD, prefix="app")
    flow = Flow(
        Shrink(),
        FlowStep(Detect(), nprocs=2, batch_size=4, batch_timeout=0.02),
        metrics_collector=Collector(qsize_collect_period=PERIOD),
        metrics_exporter=exporter,
        queue_priorities=2,
    )
    begun = time.monotonic()
    async with flow:
        await asyncio.gather(*[flow.process(Picture(bytes(100))) for _ in range(6)])
        urgent = Picture()
        urgent.priority = 5  # counts as the highest, which is 1
        await flow.process(urgent)
        with pytest.raises(FlowError):
            await flow.process(Picture(fate="sleep"), timeout_sec=0.05)
        await eventually(lambda: server.values("aqueduct.app.tasks.timeout"))
        await eventually(lambda: server.values("aqueduct.app.memory_usage.all_memory_usage"))
    client.statsd_client.close()
    took = (time.monotonic() - begun) * 1000
    names = {f"{kind} {name.removeprefix('aqueduct.app.')}" for name, v in server.read().items() for kind, _ in v}
    assert names == NAMES
    values = {name: server.values(f"aqueduct.app.{name}") for name in (name.split()[1] for name in NAMES)}
    assert sum(values["tasks.complete"]) == 7
    assert sum(values["tasks.timeout"]) == 1
    assert set(values["processes.running"]) == {3}
    assert len(values["handle_time.total"]) == 7
    assert all(10 <= milliseconds <= took for milliseconds in values["handle_time.total"])
    assert all(10 <= milliseconds <= took for milliseconds in values[f"handle_time.{DETECT}"])
    assert sum(values[f"batch_size.{DETECT}"]) == 7
    assert len(values[f"batch_time.{DETECT}"]) == len(values[f"batch_size.{DETECT}"])
    assert all(100 < size < 1000 for way in (IN, BETWEEN, OUT) for size in values[f"task_size.{way}"])
    assert len(values[f"task_size.{IN}"]) == 6
    assert len(values[f"task_size.p_1_{IN}"]) == 1
    assert all(2e6 < size < 2e9 for size in values["memory_usage.step1_Detect"])
    ways = [f"{level}{way}" for level in ("", "p_1_") for way in (IN, BETWEEN, OUT)]
    parts = [f"transfer_time.{way}" for way in ways] + [f"handle_time.{name}" for name in (SHRINK, DETECT)]
    assert sum(sum(values[part]) for part in parts) == pytest.approx(sum(values["handle_time.total"]), abs=0.1)


async def test_times_and_sizes_of_batches() -> None:
    """One of each for each call of the handler, as for the ancestor: two full batches, and one that is not full."""
    exporter = DummyExporter(export_period=PERIOD)
    flow = Flow(FlowStep(Detect(), batch_size=4, batch_timeout=0.4), metrics_exporter=exporter)
    async with flow:
        await asyncio.gather(*[flow.process(Picture()) for _ in range(10)])
    metrics = exporter.target
    assert [size for _, size in metrics.batch_sizes.items] == [4, 4, 2]
    first, second, third = [seconds for _, seconds in metrics.batch_times.items]
    assert max(first, second) < third and third > 0.3
    assert metrics.tasks_stats.complete == 10
    assert {name for name, _ in metrics.memory_usage.items} == {"step0_Detect", "all_memory_usage"}


async def test_an_exporter_of_a_user_gets_all_of_each_run() -> None:
    """Also of the last period, of tasks that end otherwise, and again after another start."""
    exporter = Kept(export_period=1000.0)
    flow = Flow(Shrink(), Detect(), metrics_exporter=exporter)
    for _ in range(2):
        exporter.target.clear()
        async with flow:
            await flow.process(Picture())
            with pytest.raises(ValueError):
                await flow.process(Picture(fate="raise"))
            left = asyncio.create_task(flow.process(Picture(fate="sleep")))
            await eventually(lambda: flow.statistics().in_flight == 1)
            left.cancel()
        metrics = exporter.all
        assert dict(metrics.tasks_stats.items) == {"cancel": 1, "timeout": 0, "complete": 1, "fail": 1}
        assert Counter(name for name, _ in metrics.handle_times.items)["total"] == 1
        assert metrics.processes_stats.dead == 0


async def test_metrics_that_are_left_out() -> None:
    """Without times of tasks and lengths of queues the numbers are still there, and nothing is recorded of a task."""
    exporters = [Kept(export_period=PERIOD), Kept(export_period=PERIOD)]
    collector = Collector(collectible_metrics=[MetricsTypes.QUEUE_SIZE], qsize_collect_period=PERIOD)
    disabled = Flow(Shrink(), metrics_enabled=False, metrics_exporter=exporters[0])
    partial = Flow(Shrink(), metrics_collector=collector, metrics_exporter=exporters[1])
    async with disabled, partial:
        for flow in (disabled, partial):
            assert not flow.subscribers
            await flow.process(Picture())
        await eventually(lambda: exporters[1].all.queue_sizes.items)
        assert disabled.statistics().histograms is None
        assert partial.statistics().histograms is not None
    for exporter in exporters:
        metrics = exporter.all
        assert metrics.tasks_stats.complete == 1
        assert metrics.memory_usage.items
        assert not metrics.handle_times.items
    assert not exporters[0].all.queue_sizes.items


def test_a_flow_without_an_exporter_collects_nothing() -> None:
    """The default exporter of the ancestor keeps the metrics of every task for ever."""
    for flow in (Flow(Shrink()), Flow(Shrink(), metrics_enabled=False)):
        assert not flow.subscribers


async def test_a_collector_of_a_user_needs_no_exporter() -> None:
    """It may pass on what it gets, and keeps nothing."""
    seen = []

    class Passing(Collector):
        def add_task_metrics(self, metrics: Any) -> None:
            seen.append(metrics.handle_times.items)
            super().add_task_metrics(metrics)

    collector = Passing()
    async with Flow(Shrink(), metrics_collector=collector) as flow:
        await flow.process(Picture())
    assert [[name for name, _ in items] for items in seen] == [["step1_Shrink", "total"]]
    assert not collector.extract_metrics().handle_times.items


async def test_a_busy_period_is_exported_in_parts() -> None:
    """The event loop does other work in between."""

    class Slow(Kept):
        def export(self, metrics: AqueductMetricsStorage) -> None:
            super().export(metrics)
            time.sleep(0.0002 * len(metrics.handle_times.items))

    exporter = Slow(export_period=0.5)
    async with Flow(Shrink(), metrics_exporter=exporter) as flow:
        await asyncio.gather(*[flow.process(Picture(), DEADLINE) for _ in range(1000)])
        async with LongestGap() as gap:
            await eventually(lambda: len(exporter.all.handle_times.items) == 2000)
    assert max(len(metrics.handle_times.items) for metrics in exporter.target) == 200
    assert gap.seconds < 0.2  # all together take 0.4 s


async def test_an_exporter_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once until it works again, and neither tasks nor later exports notice it."""

    class Failing(Kept):
        calls = 0

        def export(self, metrics: AqueductMetricsStorage) -> None:
            self.calls += 1
            if self.calls in (2, 3, 5):
                raise OSError("no route to the server")
            super().export(metrics)

    exporter = Failing(export_period=PERIOD)
    async with Flow(Shrink(), metrics_exporter=exporter) as flow:
        await eventually(lambda: exporter.calls > 6)
        await flow.process(Picture())
    assert exporter.target[-1].tasks_stats.complete + exporter.target[-2].tasks_stats.complete == 1
    reports = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["the metrics exporter of flow flow has failed" in record.message for record in reports] == [True, True]
    assert all(record.exc_info is not None for record in reports)


async def test_a_collector_that_raises_does_not_hold_up_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Collector):
        def add_tasks_stats(self, stats: TasksStats) -> None:
            raise OSError("no route to the server")

    async with asyncio.timeout(DEADLINE), inline(Flow(Shrink(), metrics_collector=Failing())) as flow:
        await flow.process(Picture())
    assert [record.message.partition(";")[0] for record in caplog.records if record.levelno == logging.ERROR] == [
        "the metrics exporter of flow flow has failed"
    ]


def test_without_an_event_loop_of_the_caller() -> None:
    """A flow that a thread calls exports in its own event loop."""
    exporter = Kept(export_period=PERIOD)
    flow = Flow(Shrink(), metrics_exporter=exporter)
    flow.start()
    flow.process_blocking(Picture())
    assert wait_until(lambda: exporter.all.tasks_stats.complete, DEADLINE)
    asyncio.run(flow.stop())
    assert exporter.all.tasks_stats.complete == 1


async def test_a_dead_worker_is_counted() -> None:
    exporter = Kept(export_period=PERIOD)
    async with Flow(Shrink(), metrics_exporter=exporter) as flow:
        (pid,) = pids(flow)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: pids(flow) and pids(flow) != [pid])
        await eventually(lambda: exporter.all.processes_stats.dead == 1)


@pytest.mark.parametrize("argument", ["collector", "exporter"])
def test_a_wrong_object_is_refused(argument: str) -> None:
    with pytest.raises(ConfigurationError, match=f"metrics_{argument} of flow flow must be a fastapi_aqueduct.metrics"):
        Flow(Shrink(), **{f"metrics_{argument}": Shrink()})  # type: ignore[arg-type]


def test_the_timer() -> None:
    timer = timeit()
    assert timer.seconds is None
    began = time.monotonic()
    with timer:
        assert timer.seconds is None
    assert timer.seconds is not None
    assert 0 <= timer.seconds <= time.monotonic() - began + 10**-timer.precision
