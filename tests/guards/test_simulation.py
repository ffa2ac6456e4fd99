"""The simulation of `tune` and of the benchmarks follows the laws of queues, where they have closed forms."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from fastapi_aqueduct.cli.tune.simulation import Service
from fastapi_aqueduct.cli.tune.stations import Fork, Station, Visit, Work

from ..benchmarks.scaling import CLIENT, simulated_rate
from ..benchmarks.server import API, PIPELINE, WORKER

CALL = 0.001


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_random_arrivals_wait_as_long_as_the_formula_of_pollaczek_and_khinchine_says(utilisation: float) -> None:
    found = Service([Station("one")], [Visit("one", CALL)], cores=1).serve_arrivals(utilisation / CALL, 20_000, seed=1)
    assert found.mean == pytest.approx(CALL * (1 + utilisation / (2 * (1 - utilisation))), rel=0.1)
    assert found.busy["one"] == pytest.approx(found.rate * CALL, rel=0.02)


@pytest.mark.parametrize(
    "processes, connections, cores, rate",
    [
        (1, 1, 8, 1 / 0.004),  # a lone request passes all stations
        (1, 16, 8, 1 / 0.002),  # one API process computes all the time
        (2, 32, 8, 2 / 0.002),
        (4, 64, 16, 1 / 0.0006),  # the pipeline does
        (2, 32, 2, 2 / 0.004),  # all cores compute
        (2, 32, 1.5, 1.5 / 0.004),  # of which others use a part
    ],
)
def test_connections_that_go_on_at_once_get_what_the_slowest_part_allows(
    processes: int, connections: int, cores: float, rate: float
) -> None:
    costs = {CLIENT: 0.0009, API: 0.002, PIPELINE: 0.0006, WORKER: 0.0005}
    found = simulated_rate(costs, cores, processes, connections // processes)
    assert found == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("connections, rate", [(1, 1 / 0.024), (2, 2 / 0.024), (16, 3 / 0.021)])
def test_processes_that_wait_for_a_device_need_no_core_meanwhile(connections: int, rate: float) -> None:
    stations = [Station("API process"), Station("worker", 3)]
    route = [Visit("API process", 0.003), Visit("worker", 0.001, wait=0.020)]
    found = Service(stations, route, cores=1).serve_connections(connections, 2000)
    assert found.rate == pytest.approx(rate, rel=0.1)
    assert found.busy["worker"] * 3 == pytest.approx(found.rate * 0.001, rel=0.02)


def test_the_processor_time_is_that_of_the_answers() -> None:
    stations = [Station("API process", 3, keeps=True), Station("worker", 2)]
    route = [Visit("API process", 0.001), Visit("worker", 0.002), Visit("API process", 0.0005)]
    found = Service(stations, route, cores=2.5).serve_connections(24, 4000)
    assert found.busy["API process"] * 3 == pytest.approx(found.rate * 0.0015, rel=0.02)
    assert found.busy["worker"] * 2 == pytest.approx(found.rate * 0.002, rel=0.02)
    assert 0.9 * 2.5 / 0.0035 < found.rate <= 2.5 / 0.0035
    assert found.mean == pytest.approx(24 / found.rate, rel=0.02)  # Little


class Batch(NamedTuple):
    """A call with a fixed part."""

    station: str
    fixed: float
    each: float
    wait: float = 0.0
    cores: float = 1.0

    def work(self, count: int) -> Work:
        return Work(self.fixed + self.each * count, self.wait, self.cores)


@pytest.mark.parametrize("size, rate", [(1, 1 / 0.011), (4, 4 / 0.014), (16, 16 / 0.026)])
def test_a_process_that_never_lacks_requests_works_on_full_batches(size: int, rate: float) -> None:
    service = Service([Station("worker", batch_size=size)], [Batch("worker", 0.010, 0.001)], cores=2)
    found = service.serve_connections(4 * size, 2000)
    assert found.rate == pytest.approx(rate, rel=0.02)
    assert found.percentile(50) == pytest.approx(4 * size / rate, rel=0.02)


def test_many_connections_that_begin_together_are_followed_until_their_queues_are_full() -> None:
    service = Service([Station("worker", batch_size=256)], [Batch("worker", 0.1, 0.001)], cores=2)
    found = service.serve_connections(1024, 4096)
    assert found.rate == pytest.approx(256 / 0.356, rel=0.001)
    assert found.mean == pytest.approx(1024 / found.rate, rel=0.001)


def test_few_requests_make_small_batches() -> None:
    service = Service([Station("worker", batch_size=16)], [Batch("worker", 0.010, 0.001)], cores=2)
    assert service.serve_connections(1, 100).mean == pytest.approx(0.011)
    crowded = service.serve_arrivals(300, 2000, seed=1)
    assert crowded.rate == pytest.approx(300, rel=0.05)  # one at a time it would do 91
    assert crowded.mean < 0.05


@pytest.mark.parametrize("places, connections, rate", [(1, 8, 1 / 0.1), (4, 8, 4 / 0.1), (8, 2, 2 / 0.1)])
def test_calls_side_by_side_wait_side_by_side(places: int, connections: int, rate: float) -> None:
    service = Service([Station("worker", places=places)], [Batch("worker", 0.0, 0.0, wait=0.1)], cores=1)
    assert service.serve_connections(connections, 400).rate == pytest.approx(rate, rel=0.05)


def test_calls_side_by_side_share_the_core_of_their_process() -> None:
    # A call of n takes n times the time of one: so the process does as many as one after the other.
    service = Service([Station("worker", places=4)], [Batch("worker", 0.0, 0.01)], cores=8)
    found = service.serve_connections(4, 400)
    assert found.rate == pytest.approx(100, rel=0.05)
    assert found.busy["worker"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("cores, rate", [(8, 2 / 0.01), (4, 1 / 0.01)])
def test_processes_with_threads_share_the_cores(cores: float, rate: float) -> None:
    service = Service([Station("worker", 2)], [Batch("worker", 0.01, 0.0, cores=4.0)], cores=cores)
    assert service.serve_connections(8, 400).rate == pytest.approx(rate, rel=0.05)


def test_requests_take_turns_on_several_routes() -> None:
    stations = [Station("all"), Station("some")]
    route, longer = [Visit("all", 0.001)], [Visit("all", 0.001), Visit("some", 0.010)]
    found = Service(stations, route, 4, [longer]).serve_connections(32, 2000)
    assert found.rate == pytest.approx(2 / 0.010, rel=0.05)  # half of them visit the slow one


def test_a_request_continues_when_its_slowest_branch_has_ended() -> None:
    stations = [Station("quick"), Station("slow"), Station("end")]
    branches = [[Visit("quick", 0.001)], [Visit("slow", 0.006), Visit("slow", 0.004)]]
    service = Service(stations, [Fork(branches), Visit("end", 0.002)], cores=4)
    assert service.serve_connections(1, 100).mean == pytest.approx(0.012)
    found = service.serve_connections(8, 1000)
    assert found.rate == pytest.approx(1 / 0.010, rel=0.02)
    assert found.busy["quick"] == pytest.approx(0.1, rel=0.05)
