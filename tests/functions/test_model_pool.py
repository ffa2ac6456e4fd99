"""Functions as handlers, in the words of the manual of MLPool, with its known issues and open questions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import FastAPI

from fastapi_aqueduct import (
    Aqueduct,
    BlockingCallError,
    ConfigurationError,
    InvalidArgument,
    ModelPool,
    Overloaded,
    QueueFull,
    StartError,
    TaskNotPicklable,
    TaskTimeout,
    UnknownModel,
    UploadTo,
    UsageError,
    WorkerDied,
)
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.model_call import ModelCall, ModelHandler
from fastapi_aqueduct.runtime import runtime_of
from fastapi_aqueduct.testing import client, inline, stub

from ..handlers import Gate
from ..shared.pipeline import in_a_pipeline
from ..support import DEADLINE, eventually, outcome, pids
from . import models
from .models import (
    LOADERS,
    count_digits,
    describe,
    die,
    die_once,
    fail,
    hold,
    load_digits,
    load_if_allowed,
    load_more_digits,
    load_nothing,
    look_at,
    name_digit,
    name_digits,
    note,
    pid,
    rank,
    score_text_classifier,
    sleep,
    too_few,
)


def make_pool(loaders: Any = LOADERS, **options: Any) -> ModelPool:
    return ModelPool(loaders, mp_start_method="forkserver", **options)


POOL = make_pool(batch_size=4)
"""Runs for all tests of this module."""

SERVED = make_pool({"digits": load_digits}, name="pool")


@pytest.fixture(scope="module", autouse=True)
def started() -> Iterator[None]:
    """Run the workers; the loop of each test drives the flow."""
    POOL.flow.start()
    yield
    asyncio.run(POOL.flow.stop())


@asynccontextmanager
async def running(pool: ModelPool) -> AsyncIterator[ModelPool]:
    async with pool.flow:
        yield pool


async def test_scoring_on_the_pool() -> None:
    """A user provides loaders, and gives each call its function, whose first argument is the model."""
    assert await POOL.call("text_classifier", score_text_classifier, text="MEMPHIS, Tenn. - Four days") == "long"
    assert await POOL.call("text_classifier", score_text_classifier, "short") == "short"
    assert await POOL.call("digits", name_digit, 2) == "two"
    path, process, args, kwargs = await POOL.call("text_classifier", describe, 1, 2, 3, four=4)
    assert (path, args, kwargs) == ("text_classification.pt", (1, 2, 3), {"four": 4})
    assert process in pids(POOL.flow)
    results = await asyncio.gather(*(POOL.call("digits", name_digit, number % 3) for number in range(30)))
    assert results == ["zero", "one", "two"] * 10
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(POOL.call_blocking, "digits", name_digit, number % 3) for number in range(12)]
        assert [await asyncio.wrap_future(call) for call in calls] == ["zero", "one", "two"] * 4
    with pytest.raises(BlockingCallError):
        POOL.call_blocking("digits", name_digit, 1)
    with pytest.raises(ValueError, match="as asked") as raised:
        await POOL.call("digits", fail)
    assert "models.py" in str(raised.value.__cause__)
    assert repr(POOL) == "<ModelPool models: text_classifier, digits, ranker>"


async def test_equal_functions_form_batches() -> None:
    """With the same model; and a call that fails fails alone."""
    both: list[Any] = [*(POOL.call_batched("digits", name_digits, number % 3) for number in range(4))]
    both += [POOL.call_batched("digits", count_digits, number) for number in range(4)]
    both += [POOL.call("digits", name_digit, 1), POOL.call("digits", fail)]
    *found, single, failed = await asyncio.gather(*map(outcome, both))
    assert all(name.startswith(("zero of", "one of", "two of")) for name in found[:4])
    assert single == "one"
    assert isinstance(failed, ValueError)
    good, bad = await asyncio.gather(
        outcome(POOL.call_batched("digits", name_digits, 1)), outcome(POOL.call_batched("digits", name_digits, 7))
    )
    assert good.startswith("one of")
    assert isinstance(bad, ValueError)
    with pytest.raises(ConfigurationError, match="too_few returned 0 results for a batch of 1"):
        await POOL.call_batched("digits", too_few, 1)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(POOL.call_batched_blocking, "digits", name_digits, 2)
        assert await asyncio.wrap_future(call) == "two of 1"


def test_a_batch_calls_each_function_with_lists_once() -> None:
    """And an error of a call that has no list is its own."""
    handler = ModelHandler({"digits": load_more_digits, "others": load_more_digits})
    assert handler.on_start() is None
    lists = [ModelCall("digits", count_digits, [digit], {}, is_batched=True) for digit in range(3)]
    others = [ModelCall("others", count_digits, [digit], {}, is_batched=True) for digit in range(2)]
    names = [ModelCall("digits", name_digits, [digit], {}, is_batched=True) for digit in range(2)]
    single = [ModelCall("digits", name_digit, [], {"digit": 1}), ModelCall("digits", name_digit, [2], {})]
    wrong, unknown = ModelCall("digits", fail, [], {}), ModelCall("gone", name_digit, [1], {})
    handler.handle(lists[0], wrong, *others, names[0], *lists[1:], unknown, *single, names[1])
    assert [call.result for call in lists] == [3, 3, 3]
    assert [call.result for call in others] == [2, 2]
    assert [call.result for call in names] == ["zero of 2", "one of 2"]
    assert [call.result for call in single] == ["one", "two"]
    assert isinstance(runtime_of(wrong)["failure"], ValueError)
    assert isinstance(runtime_of(unknown)["failure"], UnknownModel)
    assert not {"model", "function", "is_batched"} & single[0].__dict__.keys()  # they do not travel back


@asynccontextmanager
async def mortal(gone: Path) -> AsyncIterator[ModelPool]:
    """Run two workers that are replaced at once, unless there is a file."""
    timing = Timing(first_wait=0.02, longest_wait=0.1, longest_spacing=0.02, max_deaths=1000)
    async with running(make_pool({"model": partial(load_if_allowed, gone)}, nprocs=2, timing=timing)) as pool:
        yield pool.with_options(timeout_sec=DEADLINE)


async def test_a_caller_does_not_wait_for_ever_when_its_worker_dies(tmp_path: Path) -> None:
    """A known issue: "If a worker dies, but it was processing something, then the caller will infinitely wait"."""
    async with mortal(tmp_path / "gone") as pool:
        assert await pool.call("model", die_once, tmp_path / "died") in pids(pool.flow)
        with pytest.raises(WorkerDied, match="killed by SIGKILL"):  # both workers that it was given
            await pool.call("model", die)
        assert await pool.call("model", pid) in pids(pool.flow)


async def test_a_job_taken_after_the_workers_have_failed(tmp_path: Path) -> None:
    """A known issue: "it is possible to create a new job after workers have already failed"."""
    gone = tmp_path / "gone"
    async with mortal(gone) as pool:
        before = pids(pool.flow)
        kill_all(pool)
        # At once, before the deaths are noticed here: the job runs in a worker that replaces a dead one.
        assert await pool.with_options(timeout_sec=60).call("model", pid) not in before
        await eventually(lambda: len(pids(pool.flow)) == 2)
        gone.touch()  # and from now on no worker can start
        await eventually(lambda: kill_all(pool))
        error = await outcome(pool.with_options(timeout_sec=0.01).call("model", pid))
        assert isinstance(error, TaskTimeout | Overloaded)
        gone.unlink()
        assert await pool.with_options(timeout_sec=60).call("model", pid) in pids(pool.flow)


def kill_all(pool: ModelPool) -> bool:
    """Kill the workers that there are; tell whether there were none."""
    found = pids(pool.flow)
    for worker in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    return not found


async def test_the_pool_avoids_blocking_when_it_is_full(tmp_path: Path) -> None:
    """What `block_until_scheduled`, later `wait_if_full`, did; `wait_if_unavailable` is the task of a call."""
    async with inline(pool := make_pool(queue_size=2)):
        gate, patient = Gate(tmp_path), pool.with_options(timeout_sec=60)
        held = asyncio.create_task(patient.call("digits", hold, gate))
        await eventually(gate.is_entered)
        jobs = [asyncio.create_task(patient.call("digits", name_digit, 1)) for _ in range(2)]
        await eventually(lambda: pool.flow.statistics().steps[0].queued == 2)
        hasty = pool.with_options(wait_if_full=False)
        with pytest.raises(QueueFull, match="queue of the pool models is full: 2 calls wait, queue_size=2"):
            await hasty.call("digits", name_digit, 1)
        with pytest.raises(QueueFull):  # a priority above the highest level counts as that
            await hasty.with_options(priority=5).call("digits", name_digit, 1)
        with ThreadPoolExecutor(1) as threads, pytest.raises(QueueFull):
            await asyncio.wrap_future(threads.submit(hasty.call_blocking, "digits", name_digit, 1))
        assert not jobs[0].done()
        gate.open()
        await held
        assert await asyncio.gather(*jobs, hasty.call("digits", name_digit, 2)) == ["one", "one", "two"]


async def test_cancelling_a_job_that_has_not_run(tmp_path: Path) -> None:
    gate, patient = Gate(tmp_path), POOL.with_options(timeout_sec=60)
    held = asyncio.create_task(patient.call("digits", hold, gate))
    await eventually(gate.is_entered)
    job = asyncio.create_task(patient.call("digits", note, tmp_path / "ran"))
    await eventually(lambda: POOL.flow.statistics().in_flight == 2)  # it waits in the queue, or in the worker
    job.cancel()
    await eventually(job.done)
    gate.open()
    await held
    await POOL.call("digits", name_digit, 1)
    assert not (tmp_path / "ran").exists()


async def test_large_arguments_are_not_copied_through_the_queue() -> None:
    """An open question: "If they are too large, put them in a memory store and pass the object ID"."""
    for pixels, kind in ((np.zeros(200_000, np.uint8), "ndarray"), (bytes(200_000), "bytes")):
        assert await POOL.call("digits", look_at, pixels) == (kind, 200_000, True)
    with pytest.raises(TaskNotPicklable, match=r"name_digit\(\): .*lock"):
        await POOL.call("digits", name_digit, threading.Lock())  # type: ignore[arg-type]


async def test_a_client_that_a_function_needs_comes_from_the_loader() -> None:
    """An open question: "What if user provided callable relies on other clients such as BigQuery client?"."""
    assert [await POOL.call("ranker", rank, text) for text in ("a", "b")] == [("short", 1), ("short", 2)]


async def test_limits_of_time() -> None:
    with pytest.raises(TaskTimeout):
        await POOL.with_options(timeout_sec=0.1).call("digits", sleep, 0.5)


async def test_in_an_application() -> None:
    """With its probes, uploads and answers."""
    app = FastAPI(lifespan=Aqueduct(SERVED).lifespan)

    @app.post("/digit")
    async def digit(number: int) -> str:
        return await SERVED.call("digits", name_digit, number)

    @app.post("/upload")
    async def upload(pixels: Annotated[memoryview, UploadTo(SERVED)]) -> tuple[str, int, bool]:
        return await SERVED.call("digits", look_at, pixels)

    with inline(SERVED):
        async with client(app) as http:
            await ask_for_digits(http)
    with stub(SERVED, lambda model, function, number: f"{model} {function.__name__} {number}"):
        async with client(app) as http:
            assert (await http.post("/digit?number=1")).json() == "digits name_digit 1"


async def ask_for_digits(http: Any) -> None:
    assert (await http.post("/digit?number=1")).json() == "one"
    assert (await http.post("/upload", content=bytes(100_000))).json() == ["memoryview", 100_000, True]
    assert [step["step"] for step in (await http.get("/ready")).json()["steps"]] == ["pool"]


async def test_processes_of_a_server_can_share_a_pool() -> None:
    """A gotcha of MLPool: several instances of the API each load all models, and overload the processor."""
    pool = make_pool()
    with in_a_pipeline(pool.flow):
        async with running(pool):
            assert await pool.call("digits", name_digit, 2) == "two"
            assert await pool.call_batched("digits", count_digits, 2) == 1
            with pytest.raises(ValueError, match="as asked"):
                await pool.call("digits", fail)


async def test_inline() -> None:
    pool = make_pool()
    async with inline(pool):
        assert (await pool.call("text_classifier", describe))[1] == os.getpid()


async def test_loaders_that_fail(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    with pytest.raises(StartError) as raised:
        async with running(make_pool({"model": partial(load_if_allowed, tmp_path / "gone")})):
            pass
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert "the weights are gone" in str(raised.value)
    with pytest.raises(ConfigurationError, match="the loader of the model 'empty' returned None"):
        ModelHandler({"empty": load_nothing}).on_start()


@pytest.mark.parametrize(
    ("loaders", "error", "wrong"),
    [
        ({}, ConfigurationError, "at least one model"),
        ([load_nothing], InvalidArgument, "a dict of names and loaders"),
        ({1: load_nothing}, InvalidArgument, "names that are strings"),
        ({"model": "definitely_not_callable"}, InvalidArgument, "the loader of the model 'model' must be a function"),
        ({"model": lambda: 1}, ConfigurationError, "the loader of the model 'model' is a lambda"),
        ({"model": partial(lambda path: path, "a")}, ConfigurationError, "is a lambda"),
    ],
)
def test_loaders_that_cannot_work(loaders: Any, error: type[Exception], wrong: str) -> None:
    with pytest.raises(error, match=wrong):
        ModelPool(loaders)


async def test_options_that_cannot_work() -> None:
    with pytest.raises(InvalidArgument, match="ModelPool has no option nb_workers"):
        ModelPool(LOADERS, nb_workers=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"models cannot run in workers as declared: .*nprocs >= 1"):
        ModelPool(LOADERS, nprocs=0)


def local() -> Any:
    def inside(model: object) -> None: ...

    return inside


@pytest.mark.parametrize(
    ("function", "error", "wrong"),
    [
        (lambda model: 1, ConfigurationError, "the pool got a lambda, which no other process can import"),
        (local(), ConfigurationError, r"local\.<locals>\.inside, a function inside another one"),
        (partial(name_digit, digit=1), InvalidArgument, "pass the arguments in the call"),
        ("score", InvalidArgument, "a pool calls a function of a module, got 'score'"),
        (dict, InvalidArgument, "got the class dict"),
        (models.wait, InvalidArgument, "wait is `async def`.* in_worker runs such functions"),
        (models.numbers, InvalidArgument, "numbers is a generator"),
        (models.decorated, InvalidArgument, "decorated is decorated with in_worker"),
        (models.SCORER.score, ConfigurationError, r"Scorer\.score is another object"),
        ([1], InvalidArgument, "a pool calls a function of a module"),
    ],
)
async def test_functions_that_workers_would_not_find(function: Any, error: type[Exception], wrong: str) -> None:
    with pytest.raises(error, match=wrong):
        await make_pool().call("digits", function)


async def test_calls_that_cannot_be_made() -> None:
    pool = make_pool()
    wrong = "no model 'idk_this_model'; the pool has: text_classifier, digits, ranker"
    with pytest.raises(UnknownModel, match=wrong) as found:
        await pool.call("idk_this_model", name_digit, 1)
    assert isinstance(found.value, ValueError)
    assert isinstance(found.value, KeyError)
    with pytest.raises(UsageError, match=r"the pool models was called, and its .* not started.*Aqueduct\(pool\)"):
        await pool.call("digits", name_digit, 1)
    with pytest.raises(UsageError, match="not started"):
        pool.call_blocking("digits", name_digit, 1)
    with pytest.raises(InvalidArgument, match="the pool models cannot be sent to another process"):
        pickle.dumps(pool)
