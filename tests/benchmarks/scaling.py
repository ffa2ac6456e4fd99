"""What a request costs in each part of a service, and what follows for more processes and more cores."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastapi_aqueduct.cli.tune.simulation import Service
from fastapi_aqueduct.cli.tune.stations import Station, Visit

from .client import Client, Request
from .processes import MIB
from .report import Promise, Report, Series
from .server import API, PIPELINE, WORKER, Server
from .servers.work import DEVICE_TIME, DEVICES, PAGE
from .subject import Subject

ROUNDS = 5
SECONDS = 2
"""Of one load."""

CLIENT = "client"
SMALL, LARGE = "small JSON", "1 MiB"
CONNECTIONS = {SMALL: 16, LARGE: 8}
"""Connections of each API process."""

SIZES = {
    "own": "1 API process",
    "one": "1 API process and a pipeline process",
    "two": "2 API processes and a pipeline process",
}
"""What is loaded; `own` has the pipeline in the API process."""

WAITING = (1, 8)
"""Connections to a service whose workers wait for a device."""

SIMULATED = 4000
"""Requests of one simulation."""

MOST_ERROR = 15.0
"""Percent by which the simulation may be wrong."""

MACHINES = {4: (2,), 8: (4,), 16: (4, 8), 32: (16,)}
"""The API processes that are simulated, by the cores of the machine."""

COST = "processor time of a request, us"
PREDICTED = "simulated / measured requests/s"
CAPACITY = "simulated requests/s, the clients on other machines"
SPEED = "MiB per second of a processor"


@dataclass(frozen=True)
class Turn:
    """What came of a load.

    Attributes:
        rate: Requests per second.
        costs: The seconds that each kind of process computed for a request, the client included.
        cores: How many cores the other processes of the machine left.
    """

    rate: float
    costs: dict[str, float]
    cores: float

    @classmethod
    def of(cls, servers: list[Server], connections: int, request: Request, loaded: int = 1) -> Turn:
        """Load some of the servers at the same time, each over a number of connections.

        Args:
            servers: Those whose processes count: any of them may have started the pipeline process.
            connections: For each that is loaded.
            request: What is sent.
            loaded: How many of them are loaded.
        """
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.enter_context(server.awake())
            for server in servers:
                server.wait(request)
            before, idle, started = _spent(servers), _idle(), time.monotonic()
            with ThreadPoolExecutor(loaded) as pool:
                client = Client(connections, SECONDS)
                clients = [pool.submit(client.run, server.port, request) for server in servers[:loaded]]
                outcomes = [running.result() for running in clients]
            elapsed, idle = time.monotonic() - started, _idle() - idle
            spent = {kind: seconds - before[kind] for kind, seconds in _spent(servers).items()}
            for server in servers:
                server.wait(request)  # nothing is under way when they are suspended
        requests = sum(outcome.requests for outcome in outcomes)
        return cls(
            rate=sum(outcome.rate for outcome in outcomes),
            costs={kind: seconds / requests for kind, seconds in spent.items()},
            cores=(idle + sum(spent.values())) / elapsed,
        )


def measure() -> Report:
    """Measure the parts at one size, and compare a simulation of two sizes with what they do."""
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    predicted: dict[str, list[float]] = {}
    capacity: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        requests = _requests(Path(directory))
        floor = stack.enter_context(Server("floor_asgi", "noop"))
        works = {SMALL: "noop", LARGE: "upload"}
        own = {body: stack.enter_context(Server("ours_fastapi", work)) for body, work in works.items()}
        device = stack.enter_context(Server("ours_fastapi", "noop-device"))
        # Both belong to the same server, this process, so they share one pipeline.
        shared = {
            body: [stack.enter_context(Server("ours_shared", work)) for _ in range(2)] for body, work in works.items()
        }
        for number in range(ROUNDS + 1):
            bare = Turn.of([floor], CONNECTIONS[SMALL], requests[SMALL])
            found = {}
            for body, request in requests.items():
                found["own", body] = Turn.of([own[body]], CONNECTIONS[body], request)
                found["one", body] = Turn.of(shared[body], CONNECTIONS[body], request)
                found["two", body] = Turn.of(shared[body], CONNECTIONS[body], request, loaded=2)
            waiting = {count: Turn.of([device], count, requests[SMALL]) for count in WAITING}
            task = _task_cost()
            if number:  # the first round warms up
                _put(costs, _parts(bare.costs[API], task, {body: found["own", body].costs for body in requests}))
                _put(costs, _shared_parts({body: found["one", body].costs for body in requests}))
                _put(rates, {f"{SIZES[size]}, {body}": turn.rate for (size, body), turn in found.items()})
                _put(rates, {_waiting(count): turn.rate for count, turn in waiting.items()})
                _put(predicted, _predictions(found))
                _put(predicted, _waiting_predictions(found["own", SMALL], waiting))
                _put(capacity, _capacities(found))
    return Report(
        title="scaling: processor time of a request by part, and a simulation beside what it predicts",
        notes=[
            f"{CONNECTIONS[SMALL]} connections for each API process, {CONNECTIONS[LARGE]} for uploads of 1 MiB; one "
            "worker, which returns the number, or looks at every page of the upload",
            "HTTP: uvicorn with an ASGI function; dispatcher: `flow.process` without HTTP, as many callers; endpoint: "
            "the rest of the API process; body: what an upload takes there beyond the small request",
            "the simulation gets the processor times of one API process, its pipeline process, worker and client, and "
            "how many cores other processes of the machine left, which are those that it got if they left none idle; "
            "two API processes are predicted from the times of one",
            f"device: {DEVICES} workers, each of which waits {DEVICE_TIME * 1000:.0f} ms for every task; predicted "
            "from that and from the times of the service that does nothing",
        ],
        rows=[
            *(Series(name, values, 0, COST) for name, values in costs.items()),
            *(Series(name, values, 0, "measured requests/s") for name, values in rates.items()),
            *(Series(name, values, 2, PREDICTED) for name, values in predicted.items()),
            *(Series(name, values, 0, CAPACITY) for name, values in capacity.items()),
        ],
        promises=[
            Promise(Series(f"error, %: {name}", [abs(value - 1) * 100 for value in values], 0), MOST_ERROR)
            for name, values in predicted.items()
        ],
    )


def measure_uploads() -> Report:
    """Measure how fast an API process receives large uploads, beside what the machine's memory does."""
    speeds: dict[str, list[float]] = {}
    cores = os.cpu_count() or 1
    sizes = {1: CONNECTIONS[LARGE], 16: 4}
    with tempfile.TemporaryDirectory() as directory, Server("ours_fastapi", "upload") as server:
        requests = {size: _upload(Path(directory), size * MIB) for size in sizes}
        for number in range(ROUNDS + 1):
            found = {}
            for size, connections in sizes.items():
                turn = Turn.of([server], connections, requests[size])
                found[f"API process, uploads of {size} MiB"] = size / turn.costs[API]
                found[f"worker that looks at every page, {size} MiB"] = size / turn.costs[WORKER]
            for processes in (1, cores):
                with Subject("-m", f"{__package__}.subjects.copying", processes) as subject:
                    for kind, speed in subject.read().items():
                        found[f"{kind}, {_processes(processes)}"] = speed
            if number:
                _put(speeds, found)
    rows = {name: Series(name, values, 0, SPEED) for name, values in speeds.items()}
    copy = rows[f"copy, {_processes(1)}"]
    ratios = [copy.over(rows[name], f"a copy / {name}") for name in rows if name.startswith("API process")]
    contention = copy.over(rows[f"copy, {_processes(cores)}"], f"a copy / one beside {cores - 1} more")
    return Report(
        title="scaling-uploads: how fast large uploads come in, and how fast the machine copies",
        notes=[
            "raw bodies, one API process, one worker",
            "copy: 64 MiB with numpy; read: 64 MiB; receive: from a socket into one buffer of 256 KiB",
            "several processes: each copies at the same time, and has this speed",
        ],
        rows=[
            *sorted(rows.values(), key=lambda row: row.name),
            *(Series(ratio.name, ratio.values, 2, "ratio of the speeds") for ratio in (*ratios, contention)),
        ],
        promises=[],
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _put(series: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        series.setdefault(name, []).append(value)


def _requests(directory: Path) -> dict[str, Request]:
    body = directory / "body.json"
    body.write_text('{"value": 7}')
    return {SMALL: Request({"value": 7}, body), LARGE: _upload(directory, MIB)}


def _upload(directory: Path, size: int) -> Request:
    body = directory / f"body-{size}"
    body.write_bytes(b"\1" * size)
    return Request({"value": size // PAGE}, body, "application/octet-stream")


def _task_cost() -> float:
    """Return the seconds that a process computes for a task, without HTTP."""
    with Subject("-m", f"{__package__}.subjects.noop", "uvloop", CONNECTIONS[SMALL]) as subject:
        return float(subject.read()["cpu"]) / 1e6


def _parts(http: float, task: float, costs: dict[str, dict[str, float]]) -> dict[str, float]:
    """Divide the time of an API process with a pipeline of its own; in microseconds."""
    small, large = costs[SMALL], costs[LARGE]
    parts = {
        "HTTP": http,
        "dispatcher": task,
        "endpoint": small[API] - http - task,
        "own, small JSON: API process, the three together": small[API],
        "own, small JSON: worker": small[WORKER],
        "body of 1 MiB": large[API] - small[API],
        "own, 1 MiB: API process": large[API],
        "own, 1 MiB: worker": large[WORKER],
    }
    return {name: seconds * 1e6 for name, seconds in parts.items()}


def _shared_parts(costs: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"host, {body}: {kind}": times[kind] * 1e6
        for body, times in costs.items()
        for kind in (API, PIPELINE, WORKER)
    }


def _predictions(found: dict[tuple[str, str], Turn]) -> dict[str, float]:
    """Return how many times the measured rate the simulated one is; two processes from the times of one."""
    predictions = {}
    for (size, body), turn in found.items():
        processes, source = (2, "one") if size == "two" else (1, size)
        rate = simulated_rate(found[source, body].costs, turn.cores, processes, CONNECTIONS[body])
        predictions[f"{SIZES[size]}, {body}"] = rate / turn.rate
    return predictions


def _waiting(count: int) -> str:
    return f"1 API process, device, {count} connection{'s' * (count > 1)}"


def _waiting_predictions(busy: Turn, turns: dict[int, Turn]) -> dict[str, float]:
    """Return the same where workers wait. They leave cores idle; how many there are shows in a load that does not."""
    costs = busy.costs
    stations = [Station(CLIENT), Station(API), Station(WORKER, DEVICES)]
    halves = [Visit(kind, costs[kind] / 2) for kind in (CLIENT, API)]
    route = [*halves, Visit(WORKER, costs[WORKER], DEVICE_TIME), *reversed(halves)]
    return {
        _waiting(count): Service(stations, route, busy.cores).serve_connections(count, SIMULATED).rate / turn.rate
        for count, turn in turns.items()
    }


def _capacities(found: dict[tuple[str, str], Turn]) -> dict[str, float]:
    return {
        f"{cores} cores, {processes} API processes, {place}: {body}": simulated_rate(
            {kind: seconds for kind, seconds in found[size, body].costs.items() if kind != CLIENT},
            cores,
            processes,
            connections,
        )
        for body, connections in CONNECTIONS.items()
        for cores, counts in MACHINES.items()
        for processes in counts
        for place, size in (("own", "own"), ("host", "one"))
    }


def simulated_rate(costs: dict[str, float], cores: float, processes: int, connections: int) -> float:
    """Return the requests per second that a simulation gives.

    Args:
        costs: The seconds of a request in each kind of process. Without a pipeline process each API process has a
            worker of its own. Clients are processes of the same machine, one for each API process, if they are named.
        cores: The cores of the machine.
        processes: The number of API processes.
        connections: The number of connections of each of them.
    """
    is_shared = PIPELINE in costs
    there = [kind for kind in (CLIENT, API, PIPELINE) if kind in costs]
    stations = [Station(kind, processes, keeps=True) for kind in there if kind != PIPELINE]
    stations += [Station(PIPELINE)] if is_shared else []
    stations.append(Station(WORKER) if is_shared else Station(WORKER, processes, keeps=True))
    halves = [Visit(kind, costs[kind] / 2) for kind in there]  # half of it on the way back
    route = [*halves, Visit(WORKER, costs[WORKER]), *reversed(halves)]
    return Service(stations, route, cores).serve_connections(processes * connections, SIMULATED).rate


def _spent(servers: list[Server]) -> dict[str, float]:
    """Return the seconds that each kind of process has computed, the clients that have ended included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {CLIENT: usage.ru_utime + usage.ru_stime}
    for server in servers:
        for kind, seconds in server.processor_times().items():
            spent[kind] = spent.get(kind, 0.0) + seconds
    return spent


def _idle() -> float:
    """Return the seconds in which processors had nothing to do."""
    ticks = Path("/proc/stat").read_text().split()
    return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")
