"""What can be declared of a placement, and what is refused, where there is no cluster and no Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import (
    BaseTaskHandler,
    ConfigurationError,
    Flow,
    FlowStep,
    RayActor,
    StartError,
    WorkerOptions,
)
from fastapi_aqueduct.engine.workers.in_flight import InFlight
from fastapi_aqueduct.testing import inline

from ..handlers import nothing
from ..support import DEADLINE, forked, script_environment
from .handlers import Call, Count, Remote, Twice


def test_a_declaration_does_not_import_ray() -> None:
    statement = (
        "from fastapi_aqueduct import *; from tests.placement.handlers import Twice\n"
        "import fastapi_aqueduct.engine.engine\n"
        "Flow(FlowStep(Twice(), worker=WorkerOptions(placement=RayActor(num_gpus=0.5, resources={'a100': 1}))))\n"
        "import sys; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", statement], env=script_environment(), timeout=DEADLINE, check=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"address": ""}, "needs an address"),
        ({"address": "ray://head:10001"}, "ray start --address"),
        ({"address": "local"}, "ray start --address"),
        ({"num_gpus": -1}, "number >= 0 as num_gpus"),
        ({"num_cpus": "2"}, "number >= 0 as num_cpus"),
        ({"resources": {"a100": float("nan")}}, "a100 in resources"),
        ({"resources": {"GPU": 1}}, "leave GPU out of resources"),
        ({"resources": ["a100"]}, "names as keys as resources"),
        ({"runtime_env": {1: 2}}, "names as keys as runtime_env"),
    ],
)
def test_what_no_cluster_can_give_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RayActor(**options)


@pytest.mark.parametrize(
    "declare, message",
    [
        (lambda: WorkerOptions(placement="ray"), "needs a RayActor as placement"),  # type: ignore[arg-type]
        (lambda: WorkerOptions(devices=["0"], placement=RayActor()), "leave out devices, and give RayActor num_gpus"),
        (lambda: WorkerOptions(env={"A": "b"}, placement=RayActor()), "leave out env, and give RayActor runtime_env"),
        (lambda: WorkerOptions(threads=2, placement=RayActor()), "leave out threads, and give RayActor num_cpus"),
        (lambda: placed(Twice(), max_memory_growth=1 << 30), "leave out max_memory_growth"),
        (lambda: placed(Count(), busy_poll=0.001), "leave out busy_poll"),
        (
            lambda: Flow(placed(Twice()), template=nothing),
            "has a placement on another machine, and the flow",
        ),
    ],
)
def test_what_concerns_this_machine_is_refused(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare()


def placed(handler: BaseTaskHandler, **options: Any) -> FlowStep:
    return FlowStep(handler, worker=WorkerOptions(placement=RayActor()), **options)


@pytest.fixture
def without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide Ray from the workers, if it is installed."""
    (tmp_path / "ray.py").write_text("raise ImportError('no ray here')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # that of workers, too


@pytest.mark.usefixtures("without_ray")
async def test_a_start_without_ray_says_what_to_install() -> None:
    with pytest.raises(StartError, match=r"pip install 'fastapi-aqueduct\[ray\]'") as caught:
        await forked(placed(Twice())).start_async()
    assert isinstance(caught.value.__cause__, ConfigurationError)


async def test_tests_of_an_application_need_no_cluster(tmp_path: Path) -> None:
    async with inline(Flow(placed(Remote(tmp_path)))) as flow:
        task = Call("keep", 3)
        await flow.process(task)
        assert (task.result, task.node) == (3, None)


class Ticket:
    """What the in-flight table needs of a task."""

    def __init__(self, id: int, deaths: int = 0) -> None:
        self.id = id
        self.deaths = deaths
        self.is_waiting = self.is_settled = False
        self.holder = 0
        self.sent_at = 0.0


def test_a_worker_elsewhere_is_free_for_one_batch_ahead() -> None:
    table: InFlight[Ticket] = InFlight(1, sends_ahead=True)
    assert table.prefetch == 1
    table.put([Ticket(1)], 7, 0.0)
    assert table.free_at() < 0.0
    table.put([Ticket(2)], 7, 0.0)
    assert table.free_at() > 1e9
    for number in (1, 2):
        table.complete(number, [Ticket(number)], 1e-6, 0.1)
    assert (table.prefetch, table.calls_per_batch) == (1, 1)  # however fast its calls are: each is a trip
    table.put([Ticket(3, deaths=1)], 7, 0.2)
    assert table.free_at() > 1e9  # the answer could be lost if the next task ended the worker
    table.complete(3, [Ticket(3)], 0.1, 0.3)
    table.put([Ticket(4)], 7, 0.3)
    assert table.free_at() < 0.0
