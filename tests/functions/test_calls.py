"""Calls of functions that run in workers."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import (
    BlockingCallError,
    ConfigurationError,
    Flow,
    StreamingFunction,
    TaskNotPicklable,
    TaskTimeout,
    UsageError,
    WorkerFunction,
)

from ..support import blocks, outcome, pids
from . import functions
from .functions import (
    Model,
    answer,
    behave,
    count,
    double,
    first_half,
    halve_in_worker,
    pid,
    repeat,
    resize,
    root,
    stars,
)

ALL: list[Flow] = [
    found.flow for found in vars(functions).values() if isinstance(found, WorkerFunction) and found is not pid
]


@pytest.fixture(scope="module", autouse=True)
def started() -> Iterator[None]:
    """Run the workers of all functions; the loop of each test drives the flows."""
    with ThreadPoolExecutor(len(ALL)) as threads:
        list(threads.map(Flow.start, ALL))
        yield
        list(threads.map(lambda flow: asyncio.run(flow.stop()), ALL))


async def test_calls_of_many_callers_form_batches() -> None:
    texts = ["a" * length for length in range(12)]
    assert await asyncio.gather(*map(stars, texts)) == list(range(12))
    assert await asyncio.gather(*(stars("size") for _ in range(4))) == [4] * 4
    assert stars.flow.name == stars.flow.steps["stars"].name == "stars"


async def test_a_bad_element_fails_its_own_call_only() -> None:
    good, bad = await asyncio.gather(outcome(stars("one")), outcome(stars("bad")))
    assert good == 3
    assert isinstance(bad, ValueError)


@pytest.mark.parametrize(
    ("text", "wrong"), [("few", "returned 0 results for a batch of 1"), ("map", "returned a dict")]
)
async def test_results_that_do_not_match_the_batch(text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=f"stars {wrong}.* one result for each argument"):
        await stars(text)


async def test_a_batch_with_too_few_results_does_not_run_again() -> None:
    """It would hide the error: alone each of its calls may succeed."""
    outcomes = await asyncio.gather(*(outcome(stars(text)) for text in ("few", "two")))
    assert [str(item)[:42] for item in outcomes] == ["stars returned 1 results for a batch of 2;"] * 2


async def test_a_batch_has_one_argument_for_each_call() -> None:
    with pytest.raises(TypeError, match=r"stars\(\) takes one argument"):
        await stars("a", "b")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"stars\(\) takes one argument"):
        await stars(text="a")  # type: ignore[call-arg]


async def test_plain_arguments_with_keywords_and_defaults() -> None:
    result = await resize(b"abc", width=2)
    assert {**result, "pid": 0} == {
        "type": "bytes", "size": 3, "is_writable": False, "width": 2, "note": 0, "pid": 0
    }  # fmt: skip
    assert result["pid"] in pids(resize.flow)
    assert (await resize(b"", 7))["width"] == 7
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        await resize(b"", height=7)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("image", "kind"),
    [(np.zeros(100_000, np.uint8), "ndarray"), (memoryview(bytes(100_000)), "memoryview"), (bytes(100_000), "bytes")],
)
async def test_large_arguments_and_results_travel_in_shared_memory(image: Any, kind: str) -> None:
    result = await resize(image, note=bytes(50_000))
    assert (result["type"], result["size"], result["is_writable"], result["note"]) == (kind, 100_000, False, 50_000)
    half = await first_half(image)
    assert type(half) is type(image)
    assert len(half) == 50_000
    # That of bytes is copied out when it is read; any other result is a view of the argument's own block.
    held = first_half.flow.statistics().arena
    assert held.blocks == (0 if kind == "bytes" else 1)
    assert held.used < 110_000
    del half
    assert blocks(first_half.flow) == blocks(resize.flow) == 0


async def test_async_functions_run_side_by_side() -> None:
    async with asyncio.timeout(10):
        results = await asyncio.gather(*(answer(text, seconds=1.5) for text in ("", "a", "bb", "ccc", "", "", "", "")))
    assert [length for length, _ in results[:4]] == [0, 1, 2, 3]
    assert {pid for _, pid in results} == set(pids(answer.flow))
    assert await asyncio.gather(*map(double, range(5))) == [0, 2, 4, 6, 8]


async def test_generator_functions_stream_and_collect() -> None:
    assert [item async for item in repeat.stream(3)] == ["a", "b", "a"]
    assert await repeat(times=3) == ["a", "b", "a"]
    assert [item async for item in count.stream(to=3)] == [0, 1, 2]
    assert await count(3) == [0, 1, 2]
    async with count.with_options(timeout_sec=3, item_timeout=2).stream(1 << 40) as numbers:
        async for number in numbers:
            if number == 5:
                break
    assert await count(0) == []


async def test_functions_in_threads() -> None:
    assert await stars("four") == len(await repeat(4))  # from now on this loop drives the flows
    assert await asyncio.to_thread(stars.blocking, "four") == 4
    assert await asyncio.to_thread(repeat.blocking, 2) == ["a", "b"]
    with pytest.raises(BlockingCallError):
        stars.blocking("four")


async def test_the_function_itself() -> None:
    model = Model(0)
    assert stars.local(model, ["a", "bb"]) == [1, 2]
    assert model.calls == 1
    assert resize.local(b"a")["pid"] == os.getpid()
    assert list(repeat.local("xy", 3)) == ["x", "y", "x"]


async def test_options_of_calls() -> None:
    impatient = behave.with_options(timeout_sec=0.05)
    with pytest.raises(TaskTimeout):
        await impatient("wait", 0.5)
    assert await behave.with_options(priority=1)("fine") == "fine"
    with pytest.raises(ConfigurationError, match="priority"):
        await behave.with_options(priority="high")("fine")  # type: ignore[arg-type]
    assert impatient.flow is behave.flow
    assert isinstance(count.with_options(timeout_sec=1), StreamingFunction)


async def test_what_cannot_travel() -> None:
    with pytest.raises(TaskNotPicklable, match=r"behave\(\): Call.argument 1 of type lock cannot travel"):
        await behave(threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(TaskNotPicklable, match=r"behave\(\): Call.keyword seconds of type lock cannot travel"):
        await behave("", seconds=threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(TaskNotPicklable, match=r"behave\(\): .*Call.result of type lock cannot travel"):
        await behave("lock")
    with pytest.raises(TaskNotPicklable, match=r"behave\(\): .*Call.result of type lock cannot travel"):
        await asyncio.to_thread(behave.blocking, "lock")


async def test_an_exception_of_the_function_has_its_traceback_in_the_worker() -> None:
    with pytest.raises(ValueError, match="as asked") as caught:
        await behave("raise")
    assert 'raise ValueError("as asked")' in str(caught.value.__cause__)


async def test_a_worker_that_is_killed_fails_no_call() -> None:
    async with pid.flow:
        victim = await pid()
        os.kill(victim, signal.SIGKILL)
        assert await pid.with_options(timeout_sec=60)() != victim


async def test_a_function_that_was_not_decorated_where_it_is_defined() -> None:
    assert await halve_in_worker(3.0) == 1.5
    assert await root(16.0) == 4.0


async def test_a_call_without_workers() -> None:
    await root.flow.stop()
    with pytest.raises(UsageError, match=r"sqrt\(\) was called, and its workers are not started.*Aqueduct\(sqrt\)"):
        await root(16.0)
    with pytest.raises(UsageError, match="use `async with sqrt.flow`"):
        root.blocking(16.0)


def test_a_function_is_pickled_and_copied_as_a_function_is() -> None:
    assert pickle.loads(pickle.dumps(stars)) is stars
    assert copy.deepcopy(stars) is stars
    assert repr(stars) == "<WorkerFunction tests.functions.functions.stars>"
    assert (resize.__name__, resize.__doc__) == ("resize", "Resize a picture.")
