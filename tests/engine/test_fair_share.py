"""A flow that tenants share, on real workers; the rules alone are in `test_fair_queue`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    ConfigurationError,
    DeadlineUnreachable,
    FairShare,
    Flow,
    FlowStep,
    QueueFull,
    TaskTimeout,
    TenantOverShare,
)
from fastapi_aqueduct.engine.marks import canonical
from fastapi_aqueduct.engine.scheduling.fair_queue import FairQueue

from .. import handlers
from ..handlers import Each, Gate, Job, Whole, notes
from ..support import busy, contenders, engine_of, eventually, forked, fresh, running


def gated(*others: Callable[[Any], object], **options: Any) -> Flow:
    return forked(Each(handlers.enter_gate_if_any, *others), **options)


def queue_of(flow: Flow) -> FairQueue[Any]:
    queue = engine_of(flow).dispatcher.stages[0].fair
    assert queue is not None
    return queue


async def submit(flow: Flow, priority: int = 0, **fields: Any) -> asyncio.Task[Any]:
    """Process a task in the background; it is in the queue when this returns."""
    queue = queue_of(flow)
    queued = queue.count
    job = Job(**fields)
    job.set_priority(priority)
    task = asyncio.create_task(flow.process(job, 60))
    await eventually(lambda: queue.count == queued + 1)
    return task


async def refused(flow: Flow, error: type[Exception], *arguments: Any) -> Exception:
    """Wait until a task is refused with an error: another process reads of the queue a moment later."""
    found: list[Exception] = []

    def is_refused() -> bool:
        try:
            flow.check_entry(*arguments)
        except Exception as exc:
            found.append(exc)
        return bool(found)

    await eventually(is_refused)
    assert type(found[0]) is error, found
    return found[0]


async def test_tenants_take_turns_by_weight_and_priority(tmp_path: Path) -> None:
    path = tmp_path / "order"
    fair = FairShare("tenant", weight=lambda tenant: 2.0 if tenant == "b" else 1.0)
    async with running(gated(handlers.write_down, fair=fair, queue_priorities=2)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", path=path, tenant="a"):
            jobs = [await submit(flow, number=name, path=path, tenant=name) for name in "aaaaabbb"]
            jobs.append(await submit(flow, 1, number="urgent", path=path, tenant="a"))
        await asyncio.gather(*jobs)
        assert queue_of(flow).tenants == 0
    assert notes(path) == ["held", "urgent", *"abbabaaa"]


async def test_a_batch_has_tasks_of_several_tenants(tmp_path: Path) -> None:
    step = FlowStep(Whole(handlers.tell_batch_at_gate), batch_size=4)
    async with running(forked(step, fair=FairShare(lambda task: task.number[0]))) as flow:
        async with busy(flow, Gate(tmp_path), number="held"):
            jobs = [await submit(flow, number=name) for name in ["a1", "a2", "a3", "a4", "b1", "b2"]]
        batches = [task.batch for task in await asyncio.gather(*jobs)]
        assert batches[0] == ["a1", "b1", "a2", "b2"]
        assert batches[3] == ["a3", "a4"]


async def test_a_tenant_over_its_share_is_refused_and_others_are_not(tmp_path: Path) -> None:
    fair = FairShare("tenant", queue_share=0.5)
    async with running(gated(fair=fair, queue_size=4, queue_priorities=2)) as flow:
        async with busy(flow, Gate(tmp_path), tenant="a"):
            flow.check_entry(0, 60, Job(tenant="a"))
            jobs = [await submit(flow, tenant="a") for _ in range(2)]
            error = await refused(flow, TenantOverShare, 0, 60, Job(tenant="a"))
            assert "2 tasks of one tenant wait for step step1_Each" in str(error) and "'a'" not in str(error)
            assert isinstance(error, TenantOverShare) and error.retry_after >= 1.0
            flow.check_entry(1, 60, Job(tenant="a"))  # each level has places of its own
            flow.check_entry(0, 60, Job(tenant="b"))
            flow.check_entry(0, 60)  # it is not known whose task it will be
            flow.check_entry(0, 60, Job())
            jobs += [await submit(flow, tenant="b") for _ in range(2)]
            await refused(flow, QueueFull, 0, 60, Job(tenant="c"))
            assert flow.refusals.by_reason() == {"tenant_over_share": 1, "queue_full": 1}
        await asyncio.gather(*jobs)
        await fresh(flow)
        flow.check_entry(0, 60, Job(tenant="a"))


async def test_callers_of_a_tenant_over_its_share_wait_and_hold_up_no_others(tmp_path: Path) -> None:
    path = tmp_path / "order"
    async with running(gated(handlers.write_down, fair=FairShare("tenant", queue_share=0.5), queue_size=4)) as flow:
        async with busy(flow, Gate(tmp_path), number="held", path=path, tenant="a"):
            jobs = [await submit(flow, number=f"a{number}", path=path, tenant="a") for number in range(2)]
            waiting = [
                asyncio.create_task(flow.process(Job(number=f"a{number}", path=path, tenant="a"), 60))
                for number in range(2, 5)
            ]
            await eventually(lambda: contenders(flow) == 3)
            with pytest.raises(TaskTimeout):
                await flow.process(Job(number="late", path=path, tenant="a"), 0.05)
            jobs += [await submit(flow, number=name, path=path, tenant=name[0]) for name in ("b0", "b1")]
            waiting.append(asyncio.create_task(flow.process(Job(number="c0", path=path, tenant="c"), 60)))
            await eventually(lambda: contenders(flow) == 4)
            waiting[1].cancel()
            await eventually(lambda: contenders(flow) == 3)
        await asyncio.gather(*jobs, waiting[0], *waiting[2:])
    order = notes(path)
    assert [name for name in order if name[0] == "a"] == ["a0", "a1", "a2", "a4"]
    assert sorted(order) == ["a0", "a1", "a2", "a4", "b0", "b1", "c0", "held"]
    assert order.index("c0") < order.index("a4")


async def test_the_expected_time_is_that_of_the_tenant(tmp_path: Path) -> None:
    """Many tasks of one tenant make no other one's late."""
    async with running(gated(handlers.nap, fair=FairShare("tenant"))) as flow:
        for _ in range(3):
            await flow.process(Job(tenant="b", seconds=0.05))
        async with busy(flow, Gate(tmp_path), tenant="a", seconds=0.0):
            jobs = [await submit(flow, tenant="a", seconds=0.0) for _ in range(60)]
            await refused(flow, DeadlineUnreachable, 0, 1.0, Job(tenant="a"))
            flow.check_entry(0, 1.0, Job(tenant="b"))
        await asyncio.gather(*jobs)


async def test_what_can_be_no_tenant_and_no_weight_fails_the_task() -> None:
    weights: dict[str, Any] = {
        **{"a": 1.0, "zero": 0, "text": "x"},
        **{"infinite": float("inf"), "none": float("nan"), "huge": 1e308, "beyond floats": 10**400},
    }
    async with running(gated(fair=FairShare("tenant", weight=lambda tenant: weights[tenant]))) as flow:
        with pytest.raises(ConfigurationError, match="the field 'tenant', which this Job does not have"):
            await flow.process(Job())
        with pytest.raises(ConfigurationError, match="tenant of flow flow: a key must be"):
            await flow.process(Job(tenant={"a": 1}))
        with pytest.raises(ConfigurationError, match="weight of flow flow must return a number .* to 1000, got 0"):
            await flow.process(Job(tenant="zero"))
        for name in weights.keys() - {"a", "zero"}:
            with pytest.raises(ConfigurationError, match="weight of flow flow must return"):
                await flow.process(Job(tenant=name))
        with pytest.raises(KeyError):
            await flow.process(Job(tenant="unknown"))
        await flow.process(Job(tenant="a"))


@pytest.mark.processes
async def test_a_step_after_the_gate_holds_no_more_than_keeps_it_busy(tmp_path: Path) -> None:
    """Otherwise the tasks of one tenant would fill its queue, in which there are no turns."""
    flow = forked(Each(), Each(handlers.enter_gate_if_any), fair=FairShare("tenant"))
    async with running(flow):
        async with busy(flow, Gate(tmp_path), tenant="a"):
            jobs = [asyncio.create_task(flow.process(Job(tenant="a"), 60)) for _ in range(50)]
            stages = engine_of(flow).dispatcher.stages
            await eventually(lambda: stages[1].queue.count)
            await eventually(lambda: stages[0].queue.count and not any(w.in_flight.calls for w in stages[0].workers))
            assert stages[1].queue.count <= 4
        await asyncio.gather(*jobs)


async def test_a_crowded_step_with_a_condition_holds_up_only_tenants_that_have_tasks_there(tmp_path: Path) -> None:
    """Nothing tells before the first step which tasks will visit it."""
    crowded = FlowStep(Each(handlers.enter_gate_if_any), handle_condition=handlers.has_gate)
    side = FlowStep(Each(), handle_condition=handlers.has_gate)
    flow = forked(Each(), [crowded, side], Each(), fair=FairShare("tenant"), queue_priorities=2)
    async with running(flow):
        stages = engine_of(flow).dispatcher.stages
        gate = Gate(tmp_path)
        jobs = [asyncio.create_task(flow.process(Job(tenant="a", gate=gate), 60)) for _ in range(50)]
        await eventually(lambda: stages[1].queue.count >= stages[1].supply)
        await eventually(lambda: queue_of(flow).count and not any(w.in_flight.calls for w in stages[0].workers))
        waiting = queue_of(flow).count
        for _ in range(3):
            await flow.process(Job(tenant="b"), 60)
        await asyncio.gather(*(flow.process(Job(tenant=name), 60) for name in "bcdefgh"))
        assert queue_of(flow).count == waiting
        others = [asyncio.create_task(flow.process(Job(tenant="b", gate=gate), 60)) for _ in range(2)]
        await eventually(lambda: any(ticket.marks.tenant == canonical("b") for ticket in stages[1].queue.tasks()))
        gate.open()
        await asyncio.gather(*jobs, *others)


async def test_a_step_without_a_condition_holds_up_all(tmp_path: Path) -> None:
    """All tasks visit it, so their turns are taken at the gate."""
    optional = FlowStep(Each(), handle_condition=handlers.has_gate)
    flow = forked(Each(), optional, Each(handlers.enter_gate_if_any), fair=FairShare("tenant"))
    async with running(flow):
        stages = engine_of(flow).dispatcher.stages
        gate = Gate(tmp_path)
        jobs = [asyncio.create_task(flow.process(Job(tenant="a", gate=gate), 60)) for _ in range(50)]
        await eventually(lambda: stages[2].queue.count >= stages[2].supply)
        await eventually(lambda: queue_of(flow).count and not any(w.in_flight.calls for w in stages[0].workers))
        jobs.append(await submit(flow, tenant="b"))
        await asyncio.sleep(0)
        assert queue_of(flow).waiting_of(0, canonical("b")) == 1
        gate.open()
        await asyncio.gather(*jobs)


@pytest.mark.processes
async def test_a_share_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_FLOW__FAIR__QUEUE_SHARE", "0.25")
    flow = gated(fair=FairShare("tenant"), queue_size=100)
    (setting,) = [setting for setting in flow.settings if setting.option == "fair.queue_share"]
    assert (setting.value, setting.source) == (0.25, "environment")
    async with running(flow):
        assert flow.fair is not None and flow.fair.queue_share == 0.25
        assert queue_of(flow).limit == 25
