"""What the buttons of the status page do: restart, scale and replace."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from ...exceptions import AqueductError, ConfigurationError, NotRunningError, StepChanging, UnknownStep
from ...flow import Flow
from ...logger import log
from ...steps import Step
from .changes import ReplaceChange, ScaleChange, StepChange
from .replacements import Replacements

KEPT = 10
"""How many of the last changes the page shows."""

PROMPT = 2.0
"""Seconds in which a change may end before its request is answered; a model can load for minutes."""


class Answer(NamedTuple):
    """What a change is answered with.

    Attributes:
        status: The HTTP status: 200 when it has ended, 202 while it is under way, otherwise it has failed.
        detail: In words.
    """

    status: int
    detail: str


_STATUSES: dict[type[AqueductError], int] = {
    UnknownStep: 404,
    StepChanging: 409,
    NotRunningError: 503,
    ConfigurationError: 422,
}


class Actions:
    """Makes changes of steps in tasks of their own: a client that leaves does not undo them.

    Args:
        flows: The flows.
        replacements: The handlers that may be chosen.
        prompt: Seconds in which a change may end before it is answered.
    """

    def __init__(self, flows: Sequence[Flow], replacements: Replacements, prompt: float = PROMPT) -> None:
        self._flows = {flow.name: flow for flow in flows}
        self._replacements = replacements
        self._prompt = prompt
        self._recent: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._running: set[asyncio.Task[Answer]] = set()

    def recent(self) -> list[Mapping[str, Any]]:
        """List the last changes for JSON, the last one first."""
        return list(self._recent)

    async def restart(self, change: StepChange, client: str) -> Answer:
        """Replace the workers of a step by fresh ones."""
        return await self._make(change, client, "restart", lambda step: step.restart())

    async def scale(self, change: ScaleChange, client: str) -> Answer:
        """Give a step another number of workers."""
        return await self._make(change, client, f"scale to {change.nprocs}", lambda step: step.scale(change.nprocs))

    async def replace(self, change: ReplaceChange, client: str) -> Answer:
        """Replace the handler of a step by one that the code of the application offers."""

        def begin(step: Step) -> Coroutine[Any, Any, None]:
            handler = self._replacements.find(step, change.handler)
            if handler is None:
                names = ", ".join(self._replacements.names(step)) or "none"
                raise ConfigurationError(f"step {step.name} has no replacement of this name; it has: {names}")
            return step.replace(handler)

        return await self._make(change, client, f"replace by {change.handler}", begin)

    async def close(self) -> None:
        """Cancel the changes that are under way, which undoes them."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _make(
        self, change: StepChange, client: str, what: str, begin: Callable[[Step], Coroutine[Any, Any, None]]
    ) -> Answer:
        try:
            step = self._find(change)
            making = begin(step)
        except AqueductError as exc:
            return _answer(exc)
        where = f"step {step.name} of flow {change.flow}"
        log.warning("status page: %s asks for: %s %s", client, what, where)
        record = {"flow": change.flow, "step": step.name, "what": what, "client": client, "begun_at": time.time()}
        record |= {"state": "running", "text": "", "ended_at": None}
        self._recent.appendleft(record)
        task = asyncio.create_task(self._run(making, record, f"{what} {where}"))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait([task], timeout=self._prompt)
        return task.result() if task.done() else Answer(202, f"{what} {where}: under way")

    def _find(self, change: StepChange) -> Step:
        flow = self._flows.get(change.flow)
        if flow is None:
            raise UnknownStep(f"there is no flow of this name; there is: {', '.join(self._flows)}")
        return flow.steps[change.step]

    async def _run(self, making: Coroutine[Any, Any, None], record: dict[str, Any], what: str) -> Answer:
        answer = Answer(500, f"{what}: cancelled, since the server stops")
        try:
            await making
            answer = Answer(200, f"{what}: done")
        except AqueductError as exc:
            answer = _answer(exc)
        except Exception as exc:
            answer = Answer(500, f"{what} has failed: {type(exc).__name__}; the log of the server has more")
            log.exception("status page: %s has failed", what)
        finally:
            is_done = answer.status == 200
            record |= {"state": "done" if is_done else "failed", "text": answer.detail, "ended_at": time.time()}
            log.warning("status page: %s", answer.detail)
        return answer


def _answer(exc: AqueductError) -> Answer:
    status = next((_STATUSES[kind] for kind in type(exc).__mro__ if kind in _STATUSES), 422)
    cause = f" ({type(exc.__cause__).__name__}: {exc.__cause__})" if exc.__cause__ is not None else ""
    return Answer(status, f"{exc}{cause}")
