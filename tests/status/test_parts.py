"""The parts of the status page that decide: percentiles, rates, and who looks when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct.asgi.status.distribution import describe, percentile, since
from fastapi_aqueduct.asgi.status.history import SHORTEST, WINDOW, History, rate
from fastapi_aqueduct.asgi.status.hub import END, Hub
from fastapi_aqueduct.engine.statistics import Histogram

from ..support import eventually

BOUNDS = (0.1, 1.0, 10.0)
COUNTS = st.tuples(*(st.integers(0, 1000) for _ in range(4)))


def histogram(counts: tuple[int, ...]) -> Histogram:
    return Histogram(BOUNDS, counts, float(sum(counts)))


@given(COUNTS.filter(sum), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_percentiles_grow_and_lie_in_their_range(counts: tuple[int, ...], one: float, other: float) -> None:
    found = histogram(counts)
    low, high = sorted((one, other))
    assert 0 <= percentile(found, low) <= percentile(found, high) <= BOUNDS[-1]
    value = percentile(found, low)
    below = sum(count for bound, count in zip(BOUNDS, counts, strict=False) if bound < value)
    assert below <= low * found.count + 1e-6


def test_percentiles_are_spread_over_a_range() -> None:
    found = histogram((0, 10, 0, 0))
    assert percentile(found, 0.5) == pytest.approx(0.55)
    assert percentile(histogram((0, 0, 0, 3)), 0.5) == 10.0


@given(COUNTS, COUNTS)
def test_what_was_counted_since(before: tuple[int, ...], more: tuple[int, ...]) -> None:
    now = histogram(tuple(one + other for one, other in zip(before, more, strict=True)))
    assert since(now, histogram(before)).counts == more


def test_a_histogram_that_has_begun_anew_counts_from_its_start() -> None:
    assert since(histogram((1, 0, 0, 0)), histogram((5, 0, 0, 0))).counts == (1, 0, 0, 0)


def test_without_recent_values_those_since_the_start_are_shown() -> None:
    now = histogram((4, 0, 0, 0))
    found = describe(now, now)
    assert found is not None and found["count"] == 4 and not found["is_recent"]
    assert describe(None, None) is None
    assert describe(histogram((0, 0, 0, 0)), None) is None


def test_a_window_has_a_length_as_soon_as_it_means_something() -> None:
    now = 0.0
    history = History(lambda: now)
    assert history.add({}) == (0.0, {})
    now = SHORTEST / 2
    assert history.add({}) == (0.0, {})
    now = 2.0
    assert history.add({})[0] == 2.0
    now = WINDOW + 1
    assert history.add({})[0] == WINDOW - 1
    now = 10 * WINDOW
    assert history.add({}) == (0.0, {})


def test_a_counter_that_has_begun_anew_has_no_rate() -> None:
    assert rate(30, 10, 10.0) == 2.0
    assert rate(1, 10, 10.0) is None
    assert rate(30, 10, 0.0) is None


class Looks:
    """Counts how often it is looked."""

    def __init__(self) -> None:
        self.count = 0

    async def look(self) -> bytes:
        self.count += 1
        return str(self.count).encode()


@pytest.fixture
def looks() -> Iterator[Looks]:
    yield Looks()


async def test_one_look_serves_all_followers(looks: Looks) -> None:
    hub = Hub(looks.look, 0.01)
    hub.open()
    followers = [hub.follow() for _ in range(3)]
    assert {*await asyncio.gather(*map(anext, followers))} == {b"data: 1\n\n"}
    for _ in range(5):
        assert len({*await asyncio.gather(*map(anext, followers))}) == 1
    assert looks.count == 6
    for follower in followers:
        await follower.aclose()


async def test_without_followers_nothing_looks(looks: Looks) -> None:
    hub = Hub(looks.look, 0.0)
    hub.open()
    follower = hub.follow()
    await anext(follower)
    await follower.aclose()
    await asyncio.sleep(0)
    seen = looks.count
    for _ in range(20):
        await asyncio.sleep(0)
    assert looks.count == seen
    again = hub.follow()
    assert await anext(again) == b"data: %d\n\n" % (seen + 1)  # no old one
    await again.aclose()


async def test_the_end_ends_all_followers(looks: Looks) -> None:
    hub = Hub(looks.look, 3600)
    hub.open()
    followers = [hub.follow(), hub.follow()]
    for follower in followers:
        await anext(follower)
    rest = [asyncio.create_task(_rest(follower)) for follower in followers]
    await asyncio.sleep(0)
    hub.end()
    assert await asyncio.gather(*rest) == [[END], [END]]
    assert await _rest(hub.follow()) == [END]


async def test_a_look_that_fails_ends_the_followers_with_its_error() -> None:
    async def look() -> bytes:
        raise ValueError("nothing to see")

    hub = Hub(look, 3600)
    hub.open()
    with pytest.raises(ValueError, match="nothing to see"):
        await anext(hub.follow())


async def test_a_follower_that_leaves_at_its_first_wait_leaves_nothing(looks: Looks) -> None:
    hub = Hub(looks.look, 3600)
    hub.open()
    follower = hub.follow()
    waiting = asyncio.create_task(_rest(follower))
    await eventually(lambda: looks.count)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert hub._looking is None


async def _rest(follower: object) -> list[bytes]:
    return [event async for event in follower]  # type: ignore[attr-defined]
