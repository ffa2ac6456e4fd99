"""Does in the pipeline process what API processes request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol

from ...exceptions import NotRunningError
from ...logger import log
from ..engine import LocalEngine
from ..memory.layout import Ref
from ..scheduling.pairs import Half, Pair
from ..scheduling.shadow import ShadowTraffic
from ..statistics import TrialReport
from ..trial import OpenTrial
from ..wire.codec import Encoded
from ..wire.failures import encode_error
from ..wire.frames import Kind, ProtocolError
from .messages import pack_message, unpack_message
from .packed_handler import PackedHandler, stand_in
from .replacements import Replacement
from .requests import (
    CANCEL,
    Answered,
    AnsweredPair,
    Done,
    Failed,
    Reported,
    Request,
)

REPORT_PERIOD = 0.05
"""Seconds between two looks at what a trial has done; it is sent when it has changed."""


_SENT = object()
"""Returned in the place of a result that was sent."""


class Requester(Protocol):
    """An API process that is connected.

    Attributes:
        number: Its number.
    """

    @property
    def number(self) -> int:
        """As above."""

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send it a frame."""

    def lend(self, blocks: Iterable[Ref]) -> None:
        """Hold blocks for it until it returns them."""


class _Trial:
    """A trial that an API process has begun.

    Args:
        index: Index of the step.
        trial: Drives it.
    """

    def __init__(self, index: int, trial: OpenTrial[Any]) -> None:
        self.index = index
        self.trial = trial
        self.reported: TrialReport | None = None


class RequestDesk:
    """Does what API processes request, each request in an asyncio task of its own.

    What an API process has begun ends with its connection: a request is cancelled, which undoes it, and a trial ends.

    Args:
        engine: The engine of the pipeline.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._guests: dict[int, Requester] = {}
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._trials: dict[tuple[int, int], _Trial] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Those that a plan has from an earlier pipeline process are of later versions than 1.
        self._replaced = {stage.pool.index for stage in engine.dispatcher.stages if stage.pool.spec.version > 1}
        self._restored: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._functions: dict[str, Callable[..., Awaitable[Any]]] = {
            "replace": self._replace,
            "restart": self._restart,
            "resize": engine.resize,
            "restore": self._restore,
        }
        self._functions_of_guests: dict[str, Callable[..., Awaitable[Any]]] = {
            "canary": self._canary,
            "shadow": self._shadow,
            "promote": self._promote,
            "close": self._close_trial,
            "next_pair": self._next_pair,
        }

    def join(self, guest: Requester) -> None:
        """Serve one more API process, which gets to know the handlers that were put in before."""
        self._guests[guest.number] = guest
        for index in self._replaced:
            guest.post(Kind.REPLACED, self._replacement(index).pack())

    def leave(self, number: int) -> None:
        """End what an API process has begun that is gone.

        Args:
            number: Its number.
        """
        self._guests.pop(number, None)
        for (guest, _), task in list(self._tasks.items()):
            if guest == number:
                task.cancel()
        for key in [key for key in self._trials if key[0] == number]:
            self._end_trial(key)

    def close(self) -> None:
        """End all, when no API process is served any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in [*self._tasks.values(), *self._closing]:
            task.cancel()

    def handle(self, guest: Requester, payload: bytes) -> None:
        """Handle the payload of a frame of kind CALL.

        Raises:
            ProtocolError: It makes no sense.
        """
        request = unpack_message(payload, Request)
        key = guest.number, request.number
        if request.name == CANCEL:
            if key in self._tasks:
                self._tasks[key].cancel()
            elif key in self._trials:  # its result has crossed the cancellation
                self._end_trial(key)
            return
        function = self._functions.get(request.name)
        if request.name in self._functions_of_guests:
            function = partial(self._functions_of_guests[request.name], guest, request.number)
        if function is None or key in self._tasks:
            raise ProtocolError(f"request {request.number} ({request.name}) makes no sense")
        task = asyncio.get_running_loop().create_task(self._serve(guest, request, function))
        self._tasks[key] = task
        task.add_done_callback(lambda task: self._tasks.pop(key, None))

    def _end_trial(self, key: tuple[int, int]) -> None:
        closing = asyncio.get_running_loop().create_task(self._trials.pop(key).trial.close())
        self._closing.add(closing)
        closing.add_done_callback(self._note_closed)

    def _note_closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.warning(
                "the trial of a handler in flow %s has ended with its API process: %s", self._engine.name, error
            )

    async def _serve(self, guest: Requester, request: Request, function: Callable[..., Awaitable[Any]]) -> None:
        message: tuple[Any, ...]
        try:
            value = await function(*request.arguments)
        except Exception as exc:
            message = Failed(request.number, encode_error(exc))
        else:
            if value is _SENT:
                return
            message = Done(request.number, value)
        guest.post(Kind.RESULT, pack_message(message))

    async def _replace(self, index: int, handler: PackedHandler, is_in_place: bool) -> None:
        await self._engine.replace(index, handler, is_in_place)
        self._publish(index)

    async def _restore(self, replacement: Replacement) -> None:
        """Put in a handler again that an earlier pipeline process had, unless another API process has done that."""
        index, version, handler = replacement
        pool = self._engine.dispatcher.stages[index].pool
        if pool.change is None and version > max(pool.spec.version, self._restored.get(index, 0)):
            self._restored[index] = version
            if handler.program != self._program(index):
                log.info("step %s of flow %s gets the handler again that it had", pool.name, self._engine.name)
                await self._replace(index, handler, False)

    async def _restart(self, index: int, is_in_place: bool) -> None:
        handler = self._engine.dispatcher.stages[index].pool.spec.step.handler
        await self._replace(index, stand_in(handler, self._program(index)), is_in_place)

    def _program(self, index: int) -> bytes:
        """Return what the workers of a step run."""
        program = self._engine.dispatcher.stages[index].pool.spec.program
        assert program is not None
        return os.pread(program.fd, os.fstat(program.fd).st_size, 0)

    def _publish(self, index: int) -> None:
        """Tell all API processes of another handler: any of them may start the next pipeline process."""
        self._replaced.add(index)
        payload = self._replacement(index).pack()
        for guest in self._guests.values():
            guest.post(Kind.REPLACED, payload)

    def _replacement(self, index: int) -> Replacement:
        spec = self._engine.dispatcher.stages[index].pool.spec
        return Replacement(index, spec.version, stand_in(spec.step.handler, self._program(index)))

    async def _canary(self, guest: Requester, number: int, index: int, handler: PackedHandler, share: float) -> Any:
        return await self._begin(guest, number, index, await self._engine.canary(index, handler, share))

    async def _shadow(self, guest: Requester, number: int, index: int, handler: PackedHandler, keep: int) -> Any:
        return await self._begin(guest, number, index, await self._engine.shadow(index, handler, keep))

    async def _begin(self, guest: Requester, number: int, index: int, trial: OpenTrial[Any]) -> TrialReport:
        if guest.number not in self._guests:  # it has gone at this very moment
            await trial.close()
        else:
            self._trials[guest.number, number] = _Trial(index, trial)
            self._report()
        return trial.report()

    async def _promote(self, guest: Requester, number: int, begun: int) -> TrialReport:
        found = self._find(guest, begun)
        await found.trial.promote()
        self._publish(found.index)
        return found.trial.report()

    async def _close_trial(self, guest: Requester, number: int, begun: int) -> TrialReport | None:
        found = self._trials.get((guest.number, begun))
        if found is None:
            return None
        try:
            await found.trial.close()
        finally:
            self._trials.pop((guest.number, begun), None)
        return found.trial.report()

    async def _next_pair(self, guest: Requester, number: int, begun: int) -> object:
        trial: OpenTrial[ShadowTraffic] = self._find(guest, begun).trial

        def send(pair: Pair) -> object:
            # At once: lent blocks come back only from what has arrived, also if the request is cancelled now.
            if guest.number in self._guests:
                assert pair.baseline is not None and pair.candidate is not None
                baseline, candidate = (_answered(pair.kind, half) for half in (pair.baseline, pair.candidate))
                for answered in (baseline, candidate):
                    guest.lend(answered.content.blocks)
                guest.post(Kind.RESULT, pack_message(AnsweredPair(number, baseline, candidate)))
            return _SENT

        return await trial.next_pair_with(send)

    def _find(self, guest: Requester, begun: int) -> _Trial:
        found = self._trials.get((guest.number, begun))
        if found is None:
            raise NotRunningError(f"the trial of a handler in flow {self._engine.name} is over")
        return found

    def _report(self) -> None:
        """Send what trials have done, as long as there are any."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for (guest, number), trial in self._trials.items():
            report = trial.trial.report()
            if report != trial.reported:
                trial.reported = report
                self._guests[guest].post(Kind.RESULT, pack_message(Reported(number, report)))
        if self._trials:
            self._timer = asyncio.get_running_loop().call_later(REPORT_PERIOD, self._report)


def _answered(kind: bytes, half: Half) -> Answered:
    _, body, blocks, extras = half.envelope.content
    is_error = bool(half.envelope.status)
    return Answered(is_error, Encoded(kind, body, () if is_error else blocks, extras), half.seconds)
