"""The study of one step: its measurements, each in a flow of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ...engine.marks import Marker
from ...engine.options import EngineOptions
from ...engine.system.process_memory import default_memory_limit
from ...exceptions import StartError
from ...flow import FlowStep
from ...task import BaseTask
from ..sample import SampleFailed
from .bench import Bench
from .calls import CallFailed
from .goal import Load
from .isolation import isolated
from .model import FlowModel, StepSettings
from .plan import StepPlan, Trial
from .prepared import PreparedTasks
from .progress import Observer

MEMORY_SHARE = 1 / 16
"""Share of the shared memory for the tasks of one batch: there are several batches, and their results."""

SAMPLES_SHARE = 0.25
"""Share of the time of a step for the samples that go through it."""

CALLS = 12
"""Number of calls for which one size gets time, unless the whole step has less."""

LEAST_SECONDS = 0.3
"""Minimum time for one size, in seconds."""

MOST_SECONDS = 8.0
"""Maximum time of a load, in seconds; with slow calls it goes on until each worker has had some."""

ROUNDS = 3
"""Minimum duration of a load, in calls of each worker, if there is time."""

NOISY = 0.25
"""Spread above which the report says that times vary."""

LEAST_PATIENCE = 10.0
"""Minimum time limit of a call, in seconds."""

SAMPLE_PATIENCE = 60.0
"""Minimum time limit of a call with a sample, in seconds: it may warm up the handler."""

PATIENCE = 10
"""Time limit of a call, divided by its expected time; with a sample, divided by the time for the step."""


@contextmanager
def failing_with_the_sample(what: str) -> Iterator[None]:
    """Turn what the user's code raises with a sample into a `SampleFailed`.

    Args:
        what: Whose code it is.
    """
    try:
        yield
    except Exception as exc:
        raise SampleFailed(f"{what} fails with the sample: {type(exc).__name__}: {exc}") from exc


class StepStudy:
    """Measures a step.

    Args:
        options: Those of the flow.
        name: Name of the step.
        step: The step.
        plan: Chooses the measurements.
        observer: Shows what happens.

    Attributes:
        name: As given.
        step: As given.
        plan: As given.
        load_time: Seconds from the launch of a worker until it was ready.
        visits: Number of samples that visited the step.
        keys: The keys of their batches, by the numbers of the samples; none if batches do not depend on keys.
        streams: Whether it sends items.
        dispatch: Processor time of the API process for a task of this step, in seconds; None before a load.
    """

    def __init__(
        self, options: EngineOptions, name: str, step: FlowStep, plan: StepPlan, observer: Observer
    ) -> None:
        self._options = options
        self.name = name
        self.step = step
        self.plan = plan
        self._observer = observer
        self._tasks = PreparedTasks()
        self.streams = False
        self.load_time = 0.0
        self.visits = 0
        self.keys: dict[int, bytes] = {}
        self.dispatch: float | None = None
        self._delay = 1.0  # by what calls take longer than they would on an idle machine
        self._patience = SAMPLE_PATIENCE

    async def measure_sizes(self, tasks: Mapping[int, BaseTask], seconds: float) -> set[int]:
        """Let the samples go through the step, and measure calls of all sizes with one worker.

        Args:
            tasks: The samples that visit the step, by their numbers; they get its results.
            seconds: Seconds for all of it.

        Returns:
            The numbers of the samples for which there was time.

        Raises:
            SampleFailed: The handler has failed with a sample.
            StartError: The worker did not start.
        """
        begun = time.monotonic()
        settings = StepSettings(1, self.plan.limits.size, self.plan.limits.threads[0])
        self._observer.doing(f"{self.name}: start a worker")
        # For their items as long as it is not known whether there are any.
        async with Bench.running(isolated(self._options, self.name, self.step, settings), streams=True) as bench:
            self.load_time = time.monotonic() - begun
            done = await self._process_samples(bench, tasks, seconds)
            bench.streams = self.streams
            self._limit_sizes()
            end = max(begun + seconds, time.monotonic() + seconds / 2)
            while trial := self._next_trial(settings.threads, end):
                await self._measure_calls(bench, trial, end)
        return done

    async def _process_samples(self, bench: Bench, tasks: Mapping[int, BaseTask], seconds: float) -> set[int]:
        end = time.monotonic() + seconds * SAMPLES_SHARE
        self._patience = max(SAMPLE_PATIENCE, PATIENCE * seconds)
        done: set[int] = set()
        for number, task in tasks.items():
            if self.step.batch_key is not None:
                with failing_with_the_sample(f"batch_key of step {self.name}"):
                    self.keys[number] = Marker(self.name, self.step.batch_key).read(task).batch_key
            with failing_with_the_sample(f"step {self.name}"):
                self._tasks.add(task)
                self.streams |= await bench.process(task, self._patience) > 0
            done.add(number)
            self.visits += 1
            if time.monotonic() > end:
                break
        return done

    def _limit_sizes(self) -> None:
        """Measure no batches that would fill the shared memory."""
        memory = self._options.memory_limit or default_memory_limit()
        most = max(1, int(memory * MEMORY_SHARE) // max(1, self._tasks.largest))
        self.plan.limits = replace(self.plan.limits, size=min(self.plan.limits.size, most))

    async def measure_workers(self, seconds: float) -> None:
        """Measure more threads, and more workers.

        Args:
            seconds: Seconds for all of it.
        """
        end = time.monotonic() + seconds
        while self.plan.is_measured and (trial := self._next_trial(None, end)):
            size = trial.settings.size if trial.is_load else self.plan.limits.size
            flow = isolated(self._options, self.name, self.step, trial.settings._replace(size=size))
            try:
                async with Bench.running(flow, self.streams) as bench:
                    if trial.is_load:
                        await self._measure_load(bench, trial, end)
                        continue
                    await self._measure_calls(bench, trial, end)
                    while further := self._next_trial(trial.settings.threads, end):
                        await self._measure_calls(bench, further, end)
            except StartError as exc:
                self.plan.end(trial, f"{_words(self.name, trial)}: the workers do not start: {exc}")

    def _next_trial(self, threads: int | None, end: float) -> Trial | None:
        """Return the next measurement, if there is time for it.

        Args:
            threads: Those of the worker that runs, whose calls are measured; None where another one can be started.
            end: When there is no more time.
        """
        trial = self.plan.next_trial()
        if trial is None or (threads is not None and (trial.is_load or trial.settings.threads != threads)):
            return None
        expected = self.plan.expected_time(trial)
        needed = 0.0 if expected is None else self._delay * expected * (ROUNDS + 1 if trial.is_load else 2)
        if threads is None:
            needed += self.load_time
        if expected is not None and time.monotonic() + needed > end:
            self.plan.end(trial, f"{_words(self.name, trial)}: not measured, for lack of time")
            return self._next_trial(threads, end)
        return trial

    async def _measure_calls(self, bench: Bench, trial: Trial, end: float) -> None:
        self._observer.doing(_words(self.name, trial))
        size, threads = trial.settings.size, trial.settings.threads
        left = end - time.monotonic()
        seconds = max(LEAST_SECONDS, min(left / 3, CALLS * self._delay * (self.plan.expected_time(trial) or left)))
        begun = time.monotonic()
        # Tasks with different keys share no batch.
        take = self._tasks.take if self.step.batch_key is None else self._tasks.take_alike
        try:
            if self.plan.limits.is_side_by_side:
                point = await bench.measure_beside(take, size, seconds, max(seconds, left / 2))
            else:
                expected = self.plan.expected_time(trial)
                patience = self._patience if expected is None else PATIENCE * self._delay * expected
                point = await bench.measure_calls(take, size, threads, seconds, max(LEAST_PATIENCE, patience))
        except CallFailed as exc:
            self.plan.end(trial, f"{_words(self.name, trial)}: {exc}")
            return
        self.plan.note_point(trial, point)
        if not self.plan.limits.is_side_by_side:
            self._delay = max(1.0, (time.monotonic() - begun) / point.seconds / (point.calls + 1))
        if point.spread > NOISY:
            vary = f"the times of {point.calls} calls vary by {100 * point.spread:.0f} % of the median"
            self.plan.notes.append(f"{_words(self.name, trial)}: {vary}")

    async def _measure_load(self, bench: Bench, trial: Trial, end: float) -> None:
        self._observer.doing(_words(self.name, trial))
        settings = trial.settings
        expected = self._delay * (self.plan.expected_time(trial) or LEAST_SECONDS)
        left = end - time.monotonic()
        seconds = max(LEAST_SECONDS, min(MOST_SECONDS, left / 2, CALLS * expected))
        load = Load(callers=2 * settings.nprocs * settings.size)
        try:
            outcome = await bench.load(self._tasks.take, load, seconds, left, 2 * load.callers)
        except CallFailed as exc:
            self.plan.end(trial, f"{_words(self.name, trial)}: {exc}")
            return
        if outcome.failed:
            reason = f"{outcome.failed} tasks failed, the last: {outcome.error}"
            self.plan.end(trial, f"{_words(self.name, trial)}: {reason}")
            return
        self.dispatch = min(outcome.dispatch, self.dispatch or outcome.dispatch)
        model = FlowModel(
            [self.plan.costs_without_workers()], [[self.name]], outcome.dispatch, self.plan.limits.cores
        )
        then = model.predict({self.name: trial.settings}, load, outcome.speed).rate
        idle = model.predict({self.name: trial.settings}, load).rate
        self.plan.note_rate(trial, outcome.rate * idle / then, idle)


def _words(name: str, trial: Trial) -> str:
    """Describe a measurement."""
    nprocs, size, threads = trial.settings
    workers = f"{nprocs} worker{'s' * (nprocs > 1)}, " if trial.is_load else ""
    return f"{name}: {workers}{threads} thread{'s' * (threads > 1)}, size {size}"
