"""Storms, short and long; with the same seed the same storm, as far as the machine allows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep

from ..handlers import Job, add_one
from ..support import DEADLINE, blocks, eventually, pids, running
from . import handlers
from .conftest import Note
from .storm import CLIENTS, Storm
from .stream_storm import StreamStorm, make_steps
from .support import complete, is_stopped, lacking

NPROCS = 4

ANSWERED = 100
"""Calls that the short storm lasts for, however few a slow machine answers between two strikes."""


def picture_steps() -> list[FlowStep]:
    return [
        FlowStep(handlers.Pictures(handlers.invert, add_one), nprocs=NPROCS, handle_timeout=0.5),
        FlowStep(handlers.Pictures(add_one), nprocs=2, batch_size=4, handle_timeout=0.5),
    ]


async def weather(storm: Storm, steps: list[FlowStep], seconds: float, chance: random.Random, method: Any) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    # One that is stopped while it loads its model is noticed only by the time that takes.
    async with running(Flow(*steps, mp_start_method=method, start_timeout=5.0), DEADLINE) as flow:
        await storm.rage(flow, seconds, chance)
        await eventually(lambda: flow.statistics().in_flight == 0)
        # Not at once: a stopped worker with nothing but a cancelled task in hand keeps its block until it is killed.
        await eventually(lambda: blocks(flow) == 0)
        await calm(flow)
        for index, step in enumerate(steps):
            await complete(flow, step.nprocs, index)
        arena = flow.statistics().arena
        assert (arena.used, arena.leased, arena.retained) == (0, 0, 0)
    assert failures == []


async def calm(flow: Flow) -> None:
    """Give every worker something to do: one that was stopped while it was idle is noticed then."""

    while any(is_stopped(pid) for index in range(len(flow.steps)) for pid in pids(flow, index)):
        jobs = [Job(image=np.zeros(20_000, np.uint8), number=0, count=3, parts=()) for _ in range(40)]
        await asyncio.gather(*[flow.process(job, DEADLINE) for job in jobs])
        del jobs


def judge(storm: Storm) -> None:
    print(storm)
    assert set(storm.calls) <= {"answered", "refused", "cancelled", "hung"}, storm
    assert storm.calls["hung"] == 0
    assert storm.calls["answered"] >= CLIENTS // 2


async def test_a_storm_loses_no_call_and_gives_no_wrong_answer(seeded: random.Random) -> None:
    """With the start method that is quick enough to have workers ready between the strikes on a small machine."""
    storm = Storm(answered=ANSWERED)
    await weather(storm, picture_steps(), 4.0, seeded, "forkserver")
    judge(storm)
    assert storm.calls["answered"] >= ANSWERED


async def default_storm(seconds: float, chance: random.Random) -> Storm:
    """Kill workers of a service that has changed no setting, under clients that come back after a refusal."""
    storm = Storm(interval=(0.1, 0.4), stops=0.0, leaves=0.0, pause=0.05, timeout=5.0)
    async with running(Flow(FlowStep(handlers.Pictures(handlers.invert, add_one, add_one), nprocs=6))) as flow:
        await storm.rage(flow, seconds, chance)
        await eventually(lambda: len(pids(flow)) == 6, 3.0)
        assert lacking(flow) == 0
        assert not flow.statistics().steps[0].is_broken
    print(storm)
    assert storm.calls["wrong"] == storm.calls["hung"] == 0
    return storm


async def test_a_storm_over_default_settings(seeded: random.Random, note_figure: Note) -> None:
    storm = await default_storm(5.0, seeded)
    note_figure("storm of 5 s, default settings", f"{storm.share:.1%} answered; {storm}")
    assert storm.share >= 0.8


@pytest.mark.long
async def test_a_long_storm_over_default_settings(seeded: random.Random, note_figure: Note) -> None:
    storm = await default_storm(150.0, seeded)
    note_figure("storm of 150 s, default settings", f"{storm.share:.1%} answered; {storm}")
    assert storm.share >= 0.8


@pytest.mark.long
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_long_storm(seeded: random.Random, note_figure: Note, method: str) -> None:
    storm = Storm()
    await weather(storm, picture_steps(), 150.0, seeded, method)
    note_figure(f"storm of 150 s ({method})", str(storm))
    judge(storm)


async def test_a_storm_over_streams_doubles_no_item(seeded: random.Random) -> None:
    storm = StreamStorm(interval=(0.08, 0.25), leaves=0.2, answered=CLIENTS // 2, longest=60)
    await weather(storm, make_steps(handle_timeout=0.5), 2.5, seeded, "forkserver")
    judge(storm)


@pytest.mark.long
async def test_a_long_storm_over_streams_and_default_settings(seeded: random.Random, note_figure: Note) -> None:
    """Without `handle_timeout` nothing would end a stopped worker, so all are killed."""
    storm = StreamStorm(interval=(0.1, 0.4), stops=0.0, leaves=0.2, pause=0.05, timeout=5.0)
    async with running(Flow(*make_steps(nprocs=3))) as flow:
        await storm.rage(flow, 100.0, seeded)
        for index in range(3):
            await complete(flow, 3, index)
        assert lacking(flow) == 0
    note_figure("storm of 100 s over streams, default settings", f"{storm.share:.1%} answered; {storm}")
    assert set(storm.calls) <= {"answered", "refused", "cancelled", "hung", "TaskTimeout", "StepUnavailable"}, storm
    assert storm.calls["hung"] == 0
    assert storm.calls["answered"] >= CLIENTS


@pytest.mark.long
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_a_long_storm_over_streams(seeded: random.Random, note_figure: Note, method: str) -> None:
    storm = StreamStorm(interval=(0.05, 0.25), leaves=0.2)
    await weather(storm, make_steps(handle_timeout=0.5), 200.0, seeded, method)
    note_figure(f"storm of 200 s over streams ({method})", str(storm))
    judge(storm)
