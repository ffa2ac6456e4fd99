"""The window of a stream, from both ends: the worker never stops for good, and is never far ahead."""

from __future__ import annotations

from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastapi_aqueduct.engine.scheduling.outlet import Outlet
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.window import GRANT, ITEM_WEIGHT, WINDOW, Windows

TASK = 7

weights = st.integers(ITEM_WEIGHT, 2 * ITEM_WEIGHT) | st.integers(ITEM_WEIGHT, 2 * WINDOW) | st.just(GRANT)


class Flow(RuleBasedStateMachine):
    """A worker that sends as long as it may, a consumer, and what is on its way between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = Windows()
        self.outlet = Outlet(60.0)
        self.items: deque[tuple[int, int]] = deque()  # on their way to the consumer: number, weight
        self.grants: deque[int] = deque()  # on their way to the worker
        self.sent = self.taken = self.weight = self.last = 0

    @property
    def is_paused(self) -> bool:
        return TASK in self.windows.paused

    @precondition(lambda self: not self.is_paused)
    @rule(weight=weights, count=st.integers(1, 300))
    def send(self, weight: int, count: int) -> None:
        while count and not self.is_paused:
            self.items.append((self.sent, weight))
            self.windows.spend(TASK, weight)
            self.sent += 1
            self.weight += weight
            self.last = weight
            count -= 1

    @precondition(lambda self: self.items)
    @rule(count=st.integers(1, 300))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.items))):
            number, weight = self.items.popleft()
            self.outlet.put(Encoded(b"", b"%d" % number, ()), weight, 0.0)
            assert not self.outlet.is_over

    @precondition(lambda self: self.outlet)
    @rule(count=st.integers(1, 300))
    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.outlet))):
            before = self.outlet.consumed
            assert int(self.outlet.pop(0.0).body) == self.taken
            self.taken += 1
            self.weight -= self.outlet.consumed - before
            if self.outlet.consumed >= GRANT:
                self.grants.append(self.outlet.consumed)
                self.outlet.consumed = 0

    @precondition(lambda self: self.grants)
    @rule()
    def grant(self) -> None:
        self.windows.grant(TASK, self.grants.popleft())

    @invariant()
    def is_bounded(self) -> None:
        """What is on its way or waits fits into the window, but for the last item."""
        assert self.weight <= WINDOW + self.last

    @invariant()
    def goes_on(self) -> None:
        """A worker is paused only if there is something to take, or a grant on its way."""
        assert not self.is_paused or self.items or self.outlet or self.grants


TestWindow = Flow.TestCase
TestWindow.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_grant_that_crosses_the_answer_is_forgotten() -> None:
    windows = Windows()
    windows.spend(TASK, 2 * WINDOW)
    windows.close(TASK)
    windows.grant(TASK, WINDOW)
    assert not windows.paused
    windows.spend(TASK, WINDOW - 1)
    assert not windows.paused
    windows.spend(TASK, 1)
    assert windows.paused == {TASK}
