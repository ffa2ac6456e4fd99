"""What mypy infers of functions in workers, and what it must refuse: an unused ``type: ignore`` is an error, too."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import assert_type

from fastapi_aqueduct import Aqueduct, FlowStream, ModelPool, in_worker


class Model:
    def predict(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


async def connect() -> Model:
    return Model()


@in_worker(load=Model, nprocs=2, batch_size=16, batch_timeout="auto", queue_size=64)
def stars(model: Model, texts: list[str]) -> list[int]:
    return model.predict(texts)


@in_worker(batch_size=16)
def lengths(texts: list[str]) -> tuple[int, ...]:
    return tuple(map(len, texts))


@in_worker(load=connect, batch_size=16)
async def stars_of_remote(model: Model, texts: list[str]) -> list[int]:
    return model.predict(texts)


@in_worker
def resize(image: memoryview, width: int = 64) -> bytes:
    return bytes(image[:width])


@in_worker(load=connect, timeout_sec=1)
async def ask(model: Model, text: str, *, times: int = 1) -> float:
    return times * len(text)


@in_worker(load=Model)
def generate(model: Model, text: str) -> Iterator[str]:
    yield text


@in_worker()
async def count(to: int) -> AsyncIterator[int]:
    yield to


@in_worker(name="ping")
def ping() -> None: ...


pool = ModelPool({"stars": Model, "remote": connect, "part": partial(Model)}, nprocs=2, batch_size=16, queue_size=64)


def rate(model: Model, text: str, *, times: int = 1) -> float:
    return times * len(model.predict([text]))


def rate_all(model: Model, texts: list[str]) -> tuple[float, ...]:
    return tuple(map(float, model.predict(texts)))


async def pooled() -> None:
    Aqueduct(pool, stars)
    assert_type(await pool.call("stars", rate, "x", times=2), float)
    assert_type(pool.call_blocking("stars", rate, "x"), float)
    assert_type(await pool.with_options(timeout_sec=1, wait_if_full=False).call("stars", rate, text="x"), float)
    assert_type(await pool.call_batched("stars", rate_all, "x"), float)
    assert_type(pool.call_batched_blocking("stars", rate_all, "x"), float)
    await pool.call("stars", rate, 1)  # type: ignore[arg-type]
    await pool.call("stars", rate, "x", time=1)  # type: ignore[call-arg]
    await pool.call("stars", rate)  # type: ignore[call-arg]
    await pool.call_batched("stars", rate_all, 1)  # type: ignore[arg-type]
    ModelPool({"stars": 1})  # type: ignore[dict-item]


async def right(image: memoryview) -> None:
    Aqueduct(stars, resize.flow)
    assert_type(await stars("x"), int)
    assert_type(stars.blocking("x"), int)
    assert_type(await stars.with_options(timeout_sec=1, priority=1)("x"), int)
    assert_type(stars.local(Model(), ["x"]), list[int])
    assert_type(await lengths("x"), int)
    assert_type(await stars_of_remote("x"), int)
    assert_type(await resize(image, width=3), bytes)
    assert_type(resize.local(image), bytes)
    assert_type(await ask("x", times=2), float)
    assert_type(await ask.local(Model(), "x"), float)
    assert_type(generate.stream("x"), FlowStream[str])
    assert_type(await generate("x"), list[str])
    assert_type(count.with_options(item_timeout=1).stream(3), FlowStream[int])
    async for number in count.stream(to=3):
        assert_type(number, int)
    await ping()


async def wrong(image: memoryview) -> None:
    await stars(1)  # type: ignore[arg-type]
    await stars("a", "b")  # type: ignore[call-arg]
    await resize(image, height=3)  # type: ignore[call-arg]
    await resize()  # type: ignore[call-arg]
    await ask(Model(), "x")  # type: ignore[arg-type, call-arg]
    generate.stream(3)  # type: ignore[arg-type]
    stars.stream("x")  # type: ignore[attr-defined]
    stars.local(["x"])  # type: ignore[arg-type, call-arg]
    stars.with_options(item_timeout=1)  # type: ignore[call-arg]
    in_worker(nproc=2)  # type: ignore[call-overload]
    in_worker(nprocs="2")  # type: ignore[call-overload]
    in_worker(load=Model)(resize.local)  # type: ignore[arg-type]
    in_worker(batch_size=2)(ping.local)  # type: ignore[arg-type]
