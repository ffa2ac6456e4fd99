"""The meter: measures how long tasks wait and calls take, as histograms.

    arrival ─▶ (queue wait) ─▶ sent ─▶ (transfer) ─▶ call ─▶ (handle time) ─▶ (transfer) ─▶ answer
                 └ batch delay: the part of it in which a worker was idle

The engine passes it differences of times that it takes anyway. Without a meter nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...handler import HandlerForm, form_of
from ...step import FlowStep
from ..statistics import FlowHistograms, StepHistograms
from .accumulator import BLOCK, Accumulator
from .ticket import Ticket

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds of durations in seconds, from trivial calls to jobs of minutes."""

BATCHES = 128
"""Batches of one worker after which all is counted: to look at the length of a list for each task costs more."""

TASKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of batch sizes."""


class StepMeter:
    """Measures one step.

    Args:
        step: Its options.
        count: Counts what all meters of the flow have collected.

    Attributes:
        queue_wait: Seconds from the arrival of tasks until they were sent.
        batch_delay: Seconds for which batches waited for more tasks while a worker was idle.
    """

    def __init__(self, step: FlowStep, count: Callable[[], None]) -> None:
        self.queue_wait = Accumulator(SECONDS)
        self.batch_delay = Accumulator(SECONDS)
        self._transfer_time = Accumulator(SECONDS)
        self._handle_time = Accumulator(SECONDS)
        self._batch_size = Accumulator(TASKS)
        self._accumulators = (
            *(self.queue_wait, self.batch_delay, self._transfer_time, self._handle_time, self._batch_size),
        )
        self._call_size = step.call_size
        self._count_all = count
        self._is_sequential = not step.places
        # The turns of other generators cannot be told apart from the transfer.
        self._takes_turns = form_of(step.handler) is HandlerForm.GENERATOR

    def note_sent(self, tickets: Sequence[Ticket], now: float) -> None:
        """Note tasks that are sent to a worker together.

        Args:
            tickets: The tasks.
            now: The time on the clock of ``time.monotonic``.
        """
        waits = self.queue_wait.values
        for ticket in tickets:
            waits.append(now - ticket.arrived_at)
        if self._call_size > 1:
            calls, rest = divmod(len(tickets), self._call_size)
            self._batch_size.values += [self._call_size] * calls + [rest] * (rest > 0)
            if len(waits) >= BLOCK:
                self._count_all()

    def note_answer(
        self, number: int, sent_at: float, last_at: float, work: float, calls: int, duration: float, now: float
    ) -> None:
        """Note the answer to a batch, or to a part of one.

        Args:
            number: Number of the batch at its worker.
            sent_at: When it was sent.
            last_at: When the worker's answer before it came: only from then on it has worked on this batch.
            work: Seconds that the worker needed.
            calls: How many calls of the handler have ended with it.
            duration: Seconds of one of them.
            now: The time on the clock of ``time.monotonic``.
        """
        if calls == 1:
            self._handle_time.values.append(duration)
        elif calls:
            self._handle_time.values += [duration] * calls
        if not self._takes_turns:
            begun_at = last_at if last_at > sent_at and self._is_sequential else sent_at
            self._transfer_time.values.append(now - begun_at - work)
        if not number % BATCHES:
            self._count_all()

    def count(self) -> None:
        """Count what has been collected."""
        for accumulator in self._accumulators:
            accumulator.count()

    def histograms(self) -> StepHistograms:
        """Return a snapshot."""
        has_batches = self._call_size > 1
        return StepHistograms(
            queue_wait=self.queue_wait.histogram(),
            handle_time=self._handle_time.histogram(),
            transfer_time=None if self._takes_turns else self._transfer_time.histogram(),
            batch_size=self._batch_size.histogram() if has_batches else None,
            batch_delay=self.batch_delay.histogram() if has_batches else None,
        )


class Meter:
    """Measures a flow and its steps.

    Args:
        steps: The options of its steps.

    Attributes:
        steps: The meters of the steps.
        total_time: Seconds from the call of the flow to the answer, of completed tasks.
    """

    def __init__(self, steps: Sequence[FlowStep]) -> None:
        self.total_time = Accumulator(SECONDS)
        self._first_item = Accumulator(SECONDS)
        self._item_interval = Accumulator(SECONDS)
        self.steps = [StepMeter(step, self.count) for step in steps]

    def note_item(self, started_at: float, last_at: float, now: float) -> None:
        """Note an item of a stream.

        Args:
            started_at: When the call of the flow began.
            last_at: When the item before it came; 0 if it is the first.
            now: The time on the clock of ``time.monotonic``.
        """
        if last_at:
            self._item_interval.add(now - last_at)
        else:
            self._first_item.add(now - started_at)

    def count(self) -> None:
        """Count what has been collected."""
        for accumulator in (self.total_time, self._first_item, self._item_interval):
            accumulator.count()
        for step in self.steps:
            step.count()

    def histograms(self) -> FlowHistograms:
        """Return a snapshot."""
        return FlowHistograms(
            total_time=self.total_time.histogram(),
            first_item=self._first_item.histogram(),
            item_interval=self._item_interval.histogram(),
        )
