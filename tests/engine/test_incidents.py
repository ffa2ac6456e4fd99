"""What a step remembers of what has gone wrong."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from fastapi_aqueduct import FlowStep
from fastapi_aqueduct.engine.incidents import KEPT, MAX_TEXT, IncidentLog, describe_error
from fastapi_aqueduct.engine.statistics import Incident, IncidentKind
from fastapi_aqueduct.exceptions import TaskTimeout, WorkerDied

from ..handlers import Each, Gate, Job, enter_gate, kill_itself, raise_if_bad
from ..support import eventually, forked, pids, running


@pytest.fixture
def ticks() -> Iterator[float]:
    return (float(number) for number in count(1))


def test_incidents_with_the_same_subject_are_one(ticks: Iterator[float]) -> None:
    log = IncidentLog(lambda: next(ticks))
    log.note(IncidentKind.ERROR, "ValueError", "first")
    log.note(IncidentKind.DEATH, "ValueError", "of another kind")
    log.note(IncidentKind.ERROR, "ValueError", "last")
    assert log.recent() == (
        Incident(IncidentKind.ERROR, "ValueError", "last", 3.0, 2),
        Incident(IncidentKind.DEATH, "ValueError", "of another kind", 2.0, 1),
    )


def test_a_flood_of_one_kind_leaves_the_others(ticks: Iterator[float]) -> None:
    log = IncidentLog(lambda: next(ticks))
    log.note(IncidentKind.DEATH, "pid 1", "was killed")
    for number in range(100):
        log.note(IncidentKind.ERROR, f"Error{number}", "text")
    log.note(IncidentKind.ERROR, "Error99", "again")
    errors = [incident.subject for incident in log.recent() if incident.kind is IncidentKind.ERROR]
    assert errors == [f"Error{number}" for number in range(99, 99 - KEPT, -1)]
    assert log.recent()[-1].subject == "pid 1"


def test_long_texts_are_cut() -> None:
    log = IncidentLog()
    log.note(IncidentKind.ERROR, "E" * 10_000, "x" * 10_000)
    (incident,) = log.recent()
    assert len(incident.text) == len(incident.subject) == MAX_TEXT + 1


def test_an_error_without_a_text_is_described() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Silent()) == "Silent"
    assert describe_error(KeyError("a")) == "KeyError: 'a'"


async def test_an_error_is_kept_without_the_task() -> None:
    async with running(forked(Each(raise_if_bad))) as flow:
        with pytest.raises(ValueError):
            await flow.process(Job(is_bad=True, secret="4711"))
        (incident,) = flow.statistics().steps[0].incidents
        assert incident == Incident(IncidentKind.ERROR, "ValueError", "bad", incident.at)


async def test_a_timeout_says_where_the_task_was(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with running(forked(Each(enter_gate))) as flow:
        with pytest.raises(TaskTimeout):
            await flow.process(Job(gate=gate), 0.5)
        gate.open()
        (incident,) = flow.statistics().steps[0].incidents
        assert incident.kind is IncidentKind.TIMEOUT
        assert "in the hands of step step1_Each" in incident.text


async def test_a_death_says_how_and_the_next_worker_serves() -> None:
    async with running(forked(FlowStep(Each(kill_itself), max_retries=0))) as flow:
        (pid,) = pids(flow)
        with pytest.raises(WorkerDied):
            await flow.process(Job(signal=signal.SIGKILL))
        await eventually(lambda: flow.statistics().steps[0].incidents)
        (incident,) = flow.statistics().steps[0].incidents
        assert incident == Incident(IncidentKind.DEATH, f"pid {pid}", "was killed by SIGKILL", incident.at)
        await eventually(lambda: pids(flow))
