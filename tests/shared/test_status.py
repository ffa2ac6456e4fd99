"""Statistics of a pipeline in its API processes: pushed when something changes, and each refusal counted once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fastapi_aqueduct import Flow, FlowStep, StepUnavailable
from fastapi_aqueduct.asgi.probes import judge
from fastapi_aqueduct.engine.options import EngineOptions
from fastapi_aqueduct.engine.shared import status_feed, status_view
from fastapi_aqueduct.engine.shared.exported_share import ExportedShare
from fastapi_aqueduct.engine.shared.status import GuestReport, Status, address, addressee
from fastapi_aqueduct.engine.shared.status_feed import StatusFeed
from fastapi_aqueduct.engine.shared.status_view import StatusView
from fastapi_aqueduct.engine.statistics import FlowStatistics
from fastapi_aqueduct.engine.wire.frames import Kind, ProtocolError
from fastapi_aqueduct.flow import FlowState
from fastapi_aqueduct.metrics import DummyExporter
from fastapi_aqueduct.testing import inline

from ..handlers import Each, Job, add_one
from ..support import eventually
from .pipeline import in_a_pipeline
from .support import End, connection


class Process:
    """An API process: what it declares and counts, and what it shows."""

    def __init__(self, flow: Flow, end: End, silent_for: float = 0.0) -> None:
        self.options = EngineOptions(flow.name, flow._steps, "spawn", 1024, 1, 1 << 30, 60.0)
        self.own = GuestReport()
        self.end = end
        self.received = 0
        self.silent_for = silent_for
        self.view = StatusView(self.options, lambda: self.own)
        end.receive = self.receive
        self.view.attach(asyncio.get_running_loop())
        self.view.begin(end.post, lambda: self.silent_for)

    def receive(self, kind: Kind, payload: bytes) -> None:
        assert kind is Kind.STATUS
        self.received += 1
        self.view.on_status(payload)

    def statistics(self) -> FlowStatistics:
        return self.view.statistics(FlowState.RUNNING)

    def refuse(self) -> None:
        self.options.refusals.count(StepUnavailable("no", retry_after=1.0))


@contextlib.contextmanager
def feeding(flow: Flow, is_changing: bool = False) -> Iterator[StatusFeed]:
    feed = StatusFeed(flow.statistics, lambda: not is_changing, lambda: is_changing)
    feed.attach(asyncio.get_running_loop())
    try:
        yield feed
    finally:
        feed.detach()


@contextlib.contextmanager
def joined(feed: StatusFeed, flow: Flow, number: int) -> Iterator[Process]:
    with connection(number) as (client, server):
        server.receive = lambda kind, payload: feed.on_report(number, payload)
        process = Process(flow, client)
        process.view.on_status(feed.first(number))
        feed.join(server)
        try:
            yield process
        finally:
            feed.leave(number)
            process.view.end()
            process.view.detach()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_feed, "PERIOD", 0.02)
    monkeypatch.setattr(status_view, "REPORT_PERIOD", 0.01)


def make_flow() -> Flow:
    return Flow(FlowStep(Each(add_one), name="one"), name="ocr")


async def test_each_process_sees_the_whole_pipeline() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as first, joined(feed, flow, 2) as second:
                await eventually(lambda: first.received and second.received)
                await flow.process(Job(number=1))
                feed.note()
                await eventually(lambda: first.statistics().completed == second.statistics().completed == 1)
                now = first.statistics()
                assert now.state == "running" and now.steps[0].ready_workers == 1
                assert now.histograms is not None and now.histograms.total_time.count == 1


async def test_a_caller_that_is_alone_finds_its_tasks_counted_at_once() -> None:
    flow = Flow(FlowStep(Each(add_one), name="one"), name="ocr")
    with in_a_pipeline(flow):
        async with flow:
            for number in range(1, 4):
                await flow.process(Job(number=number))
                assert flow.statistics().completed == number


async def test_a_refusal_counts_once_and_never_less() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as first:
                await eventually(lambda: first.received)
                with joined(feed, flow, 2) as second:
                    await eventually(lambda: second.received)
                    seen = [0]

                    def count() -> int:
                        seen.append(first.statistics().refusals.get("step_unavailable", 0))
                        return seen[-1]

                    for number in range(1, 6):
                        first.refuse()
                        assert count() == number  # at once where it is refused
                    second.refuse()
                    await eventually(lambda: count() == 6)
                    await eventually(lambda: second.statistics().refusals == {"step_unavailable": 6})
                    assert seen == sorted(seen)
                # It has gone, and its refusal stays.
                await eventually(lambda: len(feed._reports) == 1)
                before = first.received
                await eventually(lambda: first.received > before)
                assert count() == 6


async def test_what_one_pipeline_was_told_is_not_told_the_next() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, connection(1) as (client, server):
                server.receive = lambda kind, payload: feed.on_report(1, payload)
                process = Process(flow, client)
                feed.join(server)
                process.refuse()
                await eventually(lambda: feed._reports[1].refusals == {"step_unavailable": 1})
                feed.leave(1)
                process.view.end()
                assert process.statistics().refusals == {"step_unavailable": 1}  # it is at rest
                process.refuse()
                with connection(2) as (again, other):
                    other.receive = lambda kind, payload: feed.on_report(2, payload)
                    again.receive = process.receive
                    process.view.begin(again.post, lambda: 0.0)
                    feed.join(other)
                    await eventually(lambda: feed._reports[2].refusals == {"step_unavailable": 1})
                    await eventually(lambda: process.statistics().refusals == {"step_unavailable": 2})
                    feed.leave(2)
                    process.view.end()
                    process.view.detach()


async def test_uploads_and_views_of_all_processes_are_added_up() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as first, joined(feed, flow, 2) as second:
                first.own = GuestReport(uploads=2, receiving=100, leased=10, unsent=[7])
                second.own = GuestReport(uploads=1, receiving=50, leased=5, unsent=[1, 2])
                await eventually(lambda: first.statistics().uploads == second.statistics().uploads == 3)
                for process in (first, second):
                    arena = process.statistics().arena
                    assert (arena.receiving, arena.leased, arena.used, arena.blocks) == (150, 15, 10, 3)


async def test_nothing_is_pushed_while_nothing_changes_and_not_too_often_else() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as process:
                await eventually(lambda: feed._is_resting)
                received = process.received
                started = time.monotonic()
                while time.monotonic() < started + 0.2:
                    feed.note()
                    await asyncio.sleep(0)
                await eventually(lambda: feed._is_resting)
                assert 1 <= process.received - received <= 8 + (time.monotonic() - started) / 0.02
                timer = feed._timer
                assert timer is not None and timer.when() - time.monotonic() > 1.0


async def test_tasks_in_flight_are_a_change() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow, is_changing=True) as feed, joined(feed, flow, 1) as process:
                await eventually(lambda: process.received > 5)


async def test_a_process_that_does_not_read_gets_nothing_more() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow, is_changing=True) as feed, connection(1) as (client, server):
                process = Process(flow, client)
                feed.join(server)
                server.is_stuck = True
                with joined(feed, flow, 2) as other:
                    await eventually(lambda: other.received > 3)
                assert process.received == 1
                feed.leave(1)
                process.view.end()
                process.view.detach()


async def test_a_pipeline_that_hangs_makes_the_process_unready_and_in_the_end_unlive() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as process:
                await eventually(lambda: process.received)
                assert judge([process.statistics()], True, False).is_ready
                process.silent_for = 6.0
                health = judge([process.statistics()], True, False)
                assert (health.status, health.is_ready, health.is_live) == ("hanging", False, True)
                assert health.reasons == ("the pipeline process of flow ocr has given no sign of life for 6 s",)
                process.silent_for = 301.0
                health = judge([process.statistics()], True, False)
                assert (health.status, health.is_ready, health.is_live) == ("failed", False, False)


async def test_a_process_that_is_not_connected_shows_a_flow_at_rest() -> None:
    flow = make_flow()
    with connection(1) as (client, _):
        process = Process(flow, client)
        process.refuse()
        now = process.view.statistics(FlowState.STARTING)
        assert (now.state, now.steps[0].workers, now.refusals) == ("starting", (), {"step_unavailable": 1})
        process.view.detach()


async def test_exporters_of_all_processes_export_each_number_once() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            with feeding(flow) as feed, joined(feed, flow, 1) as first:
                with joined(feed, flow, 2) as second:
                    await eventually(lambda: len(second.statistics().steps[0].workers) == 1)
                    one = ExportedShare(first.view, lambda: {"completed": 3}).statistics("running")
                    two = ExportedShare(second.view, lambda: {"completed": 4, "failed": 1}).statistics("running")
                    assert (one.completed, two.completed, two.failed) == (3, 4, 1)
                    assert len(one.steps) == 1 and two.steps == ()


async def test_who_becomes_the_eldest_goes_on_with_restarts_from_there() -> None:
    flow = make_flow()
    with inline(flow):
        async with flow:
            whole = flow.statistics()
            options = EngineOptions(flow.name, flow._steps, "spawn", 1024, 1, 1 << 30, 60.0)
            view = StatusView(options, GuestReport)
            share = ExportedShare(view, dict)

            def show(restarts: int, *guests: int) -> FlowStatistics:
                steps = tuple([replace(step, restarts=restarts) for step in whole.steps])
                status = Status(replace(whole, steps=steps), {guest: GuestReport() for guest in guests})
                view.on_status(address(2, status.pack()))
                return share.statistics("running")

            assert show(3, 1, 2).steps == ()
            assert [step.restarts for step in show(3, 2).steps] == [0]
            assert [step.restarts for step in show(5, 2, 4).steps] == [2]


async def test_an_exporter_that_shows_no_steps_exports_their_tasks_only() -> None:
    exporter = DummyExporter(export_period=0.01)
    flow = Flow(FlowStep(Each(add_one)), name="ocr", metrics_exporter=exporter)
    reporter = flow._lifecycle.options.reporters[0]

    class Engine:
        def statistics(self, state: str) -> FlowStatistics:
            return replace(flow.statistics(), steps=(), completed=7)

    reporter.attach(Engine(), asyncio.get_running_loop())
    await eventually(lambda: exporter.target.tasks_stats.complete == 7)
    await reporter.finish()
    assert not exporter.target.memory_usage.items and not exporter.target.queue_sizes.items
    assert exporter.target.processes_stats.running == 0


@pytest.mark.parametrize("payload", [b"", b"12345678", b"12345678x", address(1, b"\x80\x05N.")])
def test_what_is_no_status_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        Status.unpack(addressee(payload)[1])
    with pytest.raises(ProtocolError):
        GuestReport.unpack(payload)
