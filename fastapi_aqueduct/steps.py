"""The steps of a flow by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol, cast

from .call import Callee, CallHandler
from .engine.statistics import FlowStatistics, StepStatistics
from .exceptions import ConfigurationError, UnknownStep, got
from .handler import BaseTaskHandler
from .step import FlowStep
from .step_changes import StepChanges
from .trials import Canary, Shadow


class Served(Protocol):
    """The flow that steps belong to."""

    @property
    def name(self) -> str:
        """Name of the flow."""

    def statistics(self) -> FlowStatistics:
        """Return a snapshot."""


class CalledInWorkers(Protocol):
    """A function that `in_worker` has made: the handler of the one step of its flow calls it."""

    @property
    def callee(self) -> Callee:
        """The function, as workers find it."""

    @property
    def flow(self) -> Flowing:
        """The flow of one step that makes the calls."""


class Flowing(Protocol):
    """Its flow."""

    @property
    def steps(self) -> Steps:
        """Its steps by name."""


class Step:
    """One step of a flow: ``flow.steps["classify"]``.

    Two objects are equal if they stand for the same step of the same flow.

    Args:
        flow: The flow.
        changes: Changes its steps.
        position: Position of the step in the flow, counted from 0.
        name: Name of the step.

    Attributes:
        name: Its name in logs, metrics, probes and errors: the ``name`` of its `FlowStep`, else the numbered name.
        numbered_name: Its name by position and handler, such as ``step1_Classify``.
        position: As given.
    """

    def __init__(self, flow: Served, changes: StepChanges, position: int, name: str) -> None:
        self._flow = flow
        self._changes = changes
        self.position = position
        self.name = name
        self.numbered_name = self._declared.numbered_name(position + 1)

    @property
    def _declared(self) -> FlowStep:
        return self._changes.declared(self.position)

    @property
    def handler_class(self) -> type[BaseTaskHandler]:
        """The class of its handler."""
        return type(self._declared.handler)

    @property
    def nprocs(self) -> int:
        """Number of worker processes of the last start, before it as declared; `statistics` has the present number."""
        return self._declared.nprocs

    async def replace(self, handler: BaseTaskHandler | CalledInWorkers, *, in_place: bool = False) -> None:
        """Replace the handler while the step serves, such as by one with another model. No task is lost or refused.

        The workers are replaced one after the other: the new one is ready before the old one has its last task, so
        there must be memory for one more. As soon as one is ready, the new handler is the one with which workers come
        back that die. The flow keeps it when it is started anew.

            await flow.steps["classify"].replace(Classify("v2.onnx"))

        Args:
            handler: The new handler. It is pickled into each worker, and its ``handle`` is of the same form as that of
                the old one: a plain method, a generator or ``async def``. For the step of a function in workers,
                another function that `in_worker` has made, whose options are not used.
            in_place: Whether the old worker stops before the new one is started, for a device that holds no second
                model. With one worker, tasks wait until the new one is ready, or until their deadline.

        Raises:
            StartError: A new worker could not be started, with its own exception as the cause. All workers are those
                from before: those that were replaced have gone back.
            StepChanging: Another change of the step is under way.
            ConfigurationError: The handler cannot be pickled, or cannot take the place of the old one.
            NotRunningError: The flow does not run, or was stopped meanwhile.

        It returns when the last old worker has ended, which answers its tasks and streams first. A cancellation undoes
        the replacement without waiting for that.
        """
        await self._changes.replace(self.position, self._handler(handler), in_place)

    def canary(self, handler: BaseTaskHandler | CalledInWorkers, *, share: float = 0.1) -> Canary:
        """Try out another handler with a share of the tasks, in one more worker.

        ::

            async with step.canary(Classify("v2.onnx"), share=0.1) as canary:
                await asyncio.sleep(600)
                report = canary.report()
                if report.candidate.failed <= report.baseline.failed:
                    await canary.promote()

        It begins when the worker is ready. At the end of the block no task goes to it any more; the block ends when the
        worker has answered those it has and has gone. No task waits for the canary: if it is too slow for its share,
        the others get what it cannot. If it dies, its tasks are tried again by the others, as after any death, and it
        is started again; an exception of its handler is an answer. It gets none of the tasks that have killed a worker.

        A flow that stops ends it. While it is there, `replace`, `restart`, `scale` and other trials raise
        `StepChanging`, and worn workers are not replaced.

        Args:
            handler: The handler, as for `replace`.
            share: Its part of the tasks, between 0 and 1. It counts tasks, also where they go in batches.

        Returns:
            A context manager. Entering it raises:

            * `StartError`: The worker could not be started. Nothing has changed.
            * `StepChanging`, `NotRunningError`: As for `replace`.

        Raises:
            ConfigurationError: The handler cannot take the place of the present one, or ``share`` is no share.
        """
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ConfigurationError(f"a canary of {self.name} needs a share between 0 and 1, {got(share)}")
        tried = self._handler(handler)
        open_trial = partial(self._changes.canary, self.position, tried, float(share))
        return Canary(open_trial, partial(self._changes.keep, self.position, tried))

    def shadow(self, handler: BaseTaskHandler | CalledInWorkers, *, keep: int = 100) -> Shadow:
        """Try out another handler with copies of the tasks, in one more worker; its answers go to no caller.

        ::

            async with step.shadow(Classify("v2.onnx")) as shadow:
                async for pair in shadow:
                    if pair.candidate.label != pair.baseline.label:
                        log.info("v2 says %s, v1 %s", pair.candidate.label, pair.baseline.label)

        Callers do not wait for it. It has two batches in hand, or a few milliseconds of work: what comes while it is
        behind is skipped and counted. The copy of a task refers to the same blocks of shared memory, which stay in use
        until the shadow has answered. Tasks with fields that handlers change in shared memory (`share_value`) are
        skipped. Items of streams are not sent: the copy runs as for `Flow.process`. It begins, ends and comes back from
        a death as `canary` does; when it ends, the tasks in its hands have a few seconds.

        Args:
            handler: The handler, as for `replace`. Side effects of it are real.
            keep: How many pairs of answers are held until they are read; 0: none, only the report counts.

        Returns:
            A context manager, which raises as that of `canary`, and an iterator over pairs of answers.

        Raises:
            ConfigurationError: The handler cannot take the place of the present one, or ``keep`` is no such number.
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise ConfigurationError(f"a shadow of {self.name} needs keep >= 0, {got(keep)}")
        return Shadow(partial(self._changes.shadow, self.position, self._handler(handler), keep))

    async def restart(self, *, in_place: bool = False) -> None:
        """Replace the workers by fresh ones with the same handler, whose `on_start` may load other files.

        Args:
            in_place: As for `replace`.

        Raises:
            Exception: As for `replace`.
        """
        await self._changes.restart(self.position, in_place)

    async def scale(self, nprocs: int) -> None:
        """Give the step another number of workers while it serves.

        It returns when the new workers are ready, or those that were too many have answered their tasks and ended.

        Args:
            nprocs: The number; at least 1, and at most the larger of the declared ``nprocs`` and the number of cores.
                With `Autoscale` from its minimum to its maximum; the step goes on from there, and keeps at least this
                number for ``idle_after``.

        Raises:
            ConfigurationError: The number is too small or too large.
            StartError: A worker could not be started. The number is the one from before.
            StepChanging, NotRunningError: As for `replace`.

        A cancellation returns to the number from before without waiting for that.
        """
        await self._changes.resize(self.position, nprocs)

    def check(self, handler: BaseTaskHandler | CalledInWorkers) -> None:
        """Check that a handler can take the place of the present one.

        Args:
            handler: The handler, as for `replace`.

        Raises:
            ConfigurationError: It cannot.
        """
        self._handler(handler)

    def _handler(self, what: BaseTaskHandler | CalledInWorkers) -> BaseTaskHandler:
        """Return the handler that is meant, if it can take the place of the present one.

        Raises:
            ConfigurationError: It cannot.
        """
        callee = getattr(what, "callee", None)
        if isinstance(callee, Callee) and not isinstance(what, BaseTaskHandler):
            (step,) = what.flow.steps.values()
            # The step of that function may have another handler by now.
            handler: BaseTaskHandler = cast(type[CallHandler], step.handler_class)(callee)
        elif callable(what) and not isinstance(what, BaseTaskHandler | type):
            raise ConfigurationError(f"{what!r} is a function: decorate it with in_worker, at the top of a module")
        else:
            handler = what  # type: ignore[assignment]
        present = self._declared.handler
        is_call = isinstance(present, CallHandler)
        if is_call != isinstance(handler, CallHandler) or (is_call and type(handler) is not type(present)):
            wanted = "another function of its form that in_worker has made" if is_call else "a handler of its tasks"
            raise ConfigurationError(f"step {self.name} needs {wanted}, {got(what)}")
        self._declared.with_handler(handler)
        return handler

    def statistics(self) -> StepStatistics:
        """Return a snapshot of its workers, queue and counters. A flow that does not run has no workers."""
        return self._flow.statistics().steps[self.position]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        return (self._flow, self.position) == (other._flow, other.position)

    def __hash__(self) -> int:
        return hash((self._flow, self.position))

    def __repr__(self) -> str:
        return f"<Step {self.name} of flow {self._flow.name}: {self.handler_class.__name__}, nprocs={self.nprocs}>"


class Steps(Mapping[str, Step]):
    """The steps of a flow by name, in their order. Read-only.

    A step is also found by its numbered name, such as ``step1_Classify``. Iteration yields one name for each step: the
    given name, or the numbered one where none was given.

    Args:
        flow: The flow.
        changes: Changes its steps.
        named: Its steps with their names.
    """

    def __init__(self, flow: Served, changes: StepChanges, named: list[tuple[str, FlowStep]]) -> None:
        self._flow = flow
        self._steps = {name: Step(flow, changes, position, name) for position, (name, _) in enumerate(named)}

    def __getitem__(self, name: str) -> Step:
        """Find a step.

        Raises:
            UnknownStep: The flow has no step of this name.
        """
        for step in self._steps.values():
            if name in (step.name, step.numbered_name):
                return step
        raise UnknownStep(f"flow {self._flow.name} has no step {name!r}; it has: {', '.join(self._steps)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"<Steps of flow {self._flow.name}: {', '.join(self._steps)}>"
