"""A trial in a pipeline process, as an API process drives it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ...exceptions import NotRunningError
from ...reports import TaskPair
from ..scheduling.pairs import decode_answer
from ..statistics import TrialReport
from ..wire.codec import Codec
from ..wire.failures import decode_error
from .requests import Answered, AnsweredPair, Requests

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]
"""Runs a function in the event loop of the connection."""


class RemoteTrial:
    """A trial that has begun. It may be used in any event loop.

    Args:
        requests: Sends requests to the pipeline process.
        run: Runs a function in the event loop of the connection.
        number: The number of the request that has begun it.
        forget: Called with its number when it has ended.
    """

    def __init__(self, requests: Requests, run: Run, number: int, forget: Callable[[int], None]) -> None:
        self._requests = requests
        self._run = run
        self._number = number
        self._report: TrialReport | None = None
        self._forget = forget
        self._is_open = True

    def begin(self, report: TrialReport) -> None:
        """Note that the trial has begun.

        Args:
            report: What both sides had done then.
        """
        self._report = self._report or report

    def note(self, report: TrialReport) -> None:
        """Keep a report."""
        self._report = report

    def lose(self) -> None:
        """Note that the trial has ended with the pipeline process."""
        self._is_open = False

    def report(self) -> TrialReport:
        """Return what both sides have done, a moment ago or until the trial ended."""
        assert self._report is not None
        return self._report

    async def promote(self) -> None:
        """Replace the workers of the step by those of the handler; see `Changes.promote`."""
        if not self._is_open:
            raise NotRunningError("the handler that was tried out has gone: the trial is over")
        await self._call("promote")

    async def close(self) -> None:
        """End the trial, and wait until its worker has gone."""
        if not self._is_open:
            return
        try:
            await self._call("close")
        except NotRunningError:
            if self._is_open:
                raise
        finally:
            self._is_open = False
            self._forget(self._number)

    async def next_pair(self) -> TaskPair | None:
        """Return the oldest pair of answers, when there is one; None if the trial ends."""
        if not self._is_open:
            return None
        try:
            pair: TaskPair | None = await self._ask("next_pair")
        except NotRunningError:  # it has ended meanwhile
            return None
        return pair

    async def _call(self, name: str) -> None:
        report = await self._ask(name)
        if report is not None:
            self._report = report

    async def _ask(self, name: str) -> Any:
        results: list[Any] = []

        async def ask() -> None:
            results.append(await self._requests.call(name, self._number))

        await self._run(ask)
        return results[0]


class RemoteTrials:
    """The trials that this process has begun.

    Args:
        requests: Sends requests to the pipeline process.
        run: Runs a function in the event loop of the connection.
    """

    def __init__(self, requests: Requests, run: Run) -> None:
        requests.on_report = self._note
        self._requests = requests
        self._run = run
        self._open: dict[int, RemoteTrial] = {}

    async def begin(self, kind: str, *arguments: Any) -> RemoteTrial:
        """Begin a trial, in any event loop.

        Args:
            kind: Its kind.
            *arguments: What the request is made with.

        Raises:
            Exception: As for `Engine.canary`.
        """
        number = self._requests.next_number()
        # Reports may come together with the result.
        trial = self._open[number] = RemoteTrial(self._requests, self._run, number, self._forget)

        async def run() -> None:
            trial.begin(await self._requests.call(kind, *arguments, number=number))

        try:
            await self._run(run)
        except BaseException:
            self._forget(number)
            raise
        return trial

    def lose(self) -> None:
        """Note that all trials have ended with the pipeline process."""
        for trial in self._open.values():
            trial.lose()
        self._open.clear()

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)

    def _note(self, number: int, report: TrialReport) -> None:
        if number in self._open:
            self._open[number].note(report)


def read_pair(codec: Codec, flow: str, pair: AnsweredPair) -> TaskPair:
    """Read the answers of both sides of a shadow.

    Args:
        codec: Decodes them.
        flow: Name of the flow.
        pair: The answers.
    """
    baseline, candidate = map(partial(_read, codec, flow), (pair.baseline, pair.candidate))
    return TaskPair(baseline, candidate, pair.baseline.seconds, pair.candidate.seconds)


def _read(codec: Codec, flow: str, answered: Answered) -> Any:
    if answered.is_error:
        return decode_error(answered.content.body, f"flow {flow}")
    return decode_answer(codec, flow, answered.content)
