"""When a dead worker is replaced: the rules alone."""

from __future__ import annotations

from fastapi_aqueduct.engine.restart import RestartPolicy


def within(delay: float, most: float) -> bool:
    return most / 2 <= delay <= most


def test_deaths_that_follow_soon_wait_longer_and_longer_up_to_the_cap() -> None:
    policy = RestartPolicy(base=0.5, cap=30.0)
    delays = [policy.delay(0.0) for _ in range(9)]
    expected = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert all(within(delay, most) for delay, most in zip(delays, expected, strict=True)), delays


def test_a_healthy_life_lets_bygones_be_bygones() -> None:
    policy = RestartPolicy(base=0.5, cap=30.0, healthy_after=60.0)
    for _ in range(5):
        policy.delay(0.0)
    assert policy.delay(59.0) > 1
    assert within(policy.delay(60.0), 0.5)
    assert within(policy.delay(0.0), 1.0)


def test_workers_that_died_together_do_not_start_together() -> None:
    assert len({RestartPolicy().delay(0.0) for _ in range(20)}) > 10


def test_thousands_of_deaths_still_give_a_delay() -> None:
    policy = RestartPolicy(cap=30.0)
    assert all(policy.delay(0.0) <= 30.0 for _ in range(5000))
