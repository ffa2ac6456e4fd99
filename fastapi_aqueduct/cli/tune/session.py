"""A session: measures the steps of a flow, recommends settings, and runs the flow with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...engine.system.cpu import available_cores
from ...exceptions import ConfigurationError
from ...flow import Flow, FlowStep
from ...task import BaseTask
from ..sample import Sample
from .flow_runs import FlowRuns
from .goal import Goal, Load
from .isolation import check_place, fixed_threads, largest_size, size_of, size_option
from .machine import free_memory
from .model import FlowModel, StepSettings
from .plan import Limits, StepPlan
from .progress import Observer
from .recommendation import Recommendation, recommend
from .result import Findings, Run, StepFindings
from .study import StepStudy, failing_with_the_sample
from .variables import environment, variables_of
from .walk import Walk
from .way import part_of

SAMPLES = 8
"""Samples that go through the flow."""

SIZES_SHARE = 0.4
"""The part of the budget for calls of all sizes."""

BUSY = 0.2
"""Cores of other processes that a note mentions."""

DISPATCH = 0.0003
"""Seconds that the API process is assumed to need for a task, where the whole flow was not measured."""


class Session:
    """Measures a flow within a budget of time.

    Args:
        flow: The flow, which does not run.
        sample: Makes its tasks.
        goal: What the user wants.
        budget: Seconds.
        observer: Shows what happens.

    Raises:
        ConfigurationError: A step runs on another machine.
        SampleFailed: No sample could be made.
    """

    def __init__(self, flow: Flow, sample: Sample, goal: Goal, budget: float, observer: Observer) -> None:
        self._flow = flow
        self._sample = sample
        self._goal = goal
        self._budget = budget
        self._observer = observer
        self._begun = time.monotonic()
        self._options = flow._configuration.read()
        self._settings = flow.settings
        self._memory = free_memory()
        self._cores = available_cores()
        self._studies = {name: self._study(name, step) for name, step in self._options.steps}
        # Before an event loop runs, in which Ctrl-C would wait for the user's function.
        self._walk = Walk([sample.next_task() for _ in range(SAMPLES)])
        self._dispatch = DISPATCH
        self._before: Run | None = None
        self._after: Run | None = None
        self._recommendation: Recommendation | None = None
        self._runs = FlowRuns(flow, self._options, sample, budget)
        self._notes: list[str] = []
        self._measuring: asyncio.Task[None] | None = None
        self._is_interrupted = False

    async def run(self) -> Findings:
        """Measure.

        Returns:
            What was found, also after an interruption.

        Raises:
            AqueductError: A sample cannot be processed, or workers do not start.

        A cancellation ends all workers, and waits until they are gone.
        """
        self._begun = time.monotonic()
        self._measuring = asyncio.ensure_future(self._measure())
        try:
            await asyncio.wait([self._measuring])
        except asyncio.CancelledError:
            if not self._is_interrupted:  # else it ends already: once more would break off the end of its workers
                self._measuring.cancel()
            await asyncio.wait([self._measuring])
            raise
        if not self._measuring.cancelled():
            self._measuring.result()
        self._recommend()
        return self._findings()

    def interrupt(self) -> None:
        """End the measurements, and have `run` return what there is."""
        self._is_interrupted = True
        if self._measuring is not None:
            self._measuring.cancel()

    async def _measure(self) -> None:
        await self._measure_sizes()
        await self._run_before()
        await self._measure_workers()
        self._recommend()
        await self._run_after()

    async def _measure_sizes(self) -> None:
        await self._walk.go(self._flow.shape, self._visits, self._visit)
        if not any(self._walk.ways):
            raise ConfigurationError(f"no task of the sample {self._sample.name} visits a step of {self._options.name}")
        for name in self._studies:
            if not self._walk.share(name):
                self._notes.append(f"no sample visits the step {name}: it keeps its settings")

    async def _visit(self, name: str, tasks: Mapping[int, BaseTask]) -> set[int]:
        """Let the samples that visit a step go through it, and measure it with them.

        Returns:
            The numbers of the samples for which there was time.
        """
        study = self._studies[name]
        names = list(self._studies)
        left = self._begun + SIZES_SHARE * self._budget - time.monotonic()
        return await study.measure_sizes(tasks, max(1.0, left / (len(names) - names.index(name))))

    def _visits(self, name: str, task: BaseTask) -> bool:
        with failing_with_the_sample(f"handle_condition of step {name}"):
            return bool(self._studies[name].step.handle_condition(task))

    async def _run_before(self) -> None:
        settings = {
            name: StepSettings(study.step.most_workers, size_of(study.step), self._threads(study.step))
            for name, study in self._studies.items()
            if self._walk.share(name)
        }
        callers = min(2 * sum(own.nprocs * own.size for own in settings.values()), self._options.queue_size)
        load = Load(callers=callers) if self._goal.rate is None else Load(rate=self._goal.rate)
        self._observer.doing("the flow with its own settings")
        self._before = await self._runs.run(settings, load, self._streams)
        if self._before is not None:
            self._dispatch = self._before.outcome.dispatch

    async def _measure_workers(self) -> None:
        measured = [study for study in self._studies.values() if study.plan.is_measured]
        # The dearest first: if there is no time for all, the others matter less.
        measured.sort(key=lambda study: -study.visits * study.plan.costs().least_seconds)
        end = self._begun + self._budget - self._start_time() - self._runs.seconds
        for place, study in enumerate(measured):
            left = end - time.monotonic()
            await study.measure_workers(max(0.0, left) * (0.6 if place < len(measured) - 1 else 1.0))
        self._note_dispatch(measured)

    def _note_dispatch(self, measured: Sequence[StepStudy]) -> None:
        """Take what the API process needs from the loads of the steps, if that is less: many tasks share its work."""
        known = [self._walk.share(study.name) * study.dispatch for study in measured if study.dispatch is not None]
        if known and len(known) == len(measured):
            self._dispatch = min(self._dispatch, sum(known))

    def _recommend(self) -> None:
        if self._recommendation is None and (model := self._model()):
            self._recommendation = recommend(model, self._goal)

    async def _run_after(self) -> None:
        if self._recommendation is None:
            return
        self._observer.expect(self._start_time() + self._runs.seconds)
        self._observer.doing("the flow with the recommended settings")
        with environment(self._variables()):
            settings, load = self._recommendation.settings, self._recommendation.load
            self._after = await self._runs.run(settings, load, self._streams)

    @property
    def _streams(self) -> bool:
        return any(study.streams for study in self._studies.values())

    def _study(self, name: str, step: FlowStep) -> StepStudy:
        check_place(name, step)
        fixed = fixed_threads()
        threads = [fixed] if fixed else _doublings(self._cores)
        beside = bool(step.places)
        limits = Limits(largest_size(step), threads, self._cores, self._memory, beside)
        return StepStudy(self._options, name, step, StepPlan(name, limits), self._observer)

    def _threads(self, step: FlowStep) -> int:
        """Return the threads that the workers of a step have as it is declared."""
        declared = None if step.worker is None else step.worker.threads
        workers = sum(each.nprocs for _, each in self._options.steps)
        return fixed_threads() or declared or max(1, self._cores // workers)

    def _start_time(self) -> float:
        return sum(study.load_time for study in self._studies.values())

    def _model(self) -> FlowModel | None:
        steps = [study.plan.costs() for study in self._studies.values() if study.plan.is_measured]
        names = {step.name for step in steps}
        ways = [part_of(way, names) for way in self._walk.ways]
        numbers = self._walk.numbers
        keys = {
            study.name: [study.keys.get(number, b"") for number in numbers]  # of one that does not visit it: any
            for study in self._studies.values()
            if study.keys
        }
        return FlowModel(steps, ways, self._dispatch, self._cores, self._memory, keys) if steps else None

    def _variables(self) -> dict[str, str]:
        variables: dict[str, str] = {}
        if self._recommendation is not None:
            for name, own in self._recommendation.settings.items():
                study = self._studies[name]
                sets_threads = fixed_threads() is None
                variables |= variables_of(name, study.step, study.plan.costs(), own, self._settings, sets_threads)
        return variables

    def _findings(self) -> Findings:
        model = self._model()
        before, after = (_with_expected(run, model) for run in (self._before, self._after))
        foreign = max((run.outcome.foreign_cores for run in (before, after) if run), default=0.0)
        if foreign > BUSY:
            self._notes.append(
                f"other processes used {foreign:.1f} cores during a run of the whole flow: repeat this on a machine "
                "that is idle, or that is as busy as yours will be"
            )
        for study in self._studies.values():
            if study.step.coalesce_key is not None:
                self._notes.append(
                    f"tasks with equal keys share one run of {study.name} (coalesce_key), which the prediction leaves "
                    "out: the sample should have as many different keys as your traffic"
                )
        steps = [
            StepFindings(
                study.name,
                size_option(study.step),
                study.plan.costs() if study.plan.is_measured else None,
                study.plan.rates,
                self._walk.share(study.name),
                study.load_time,
                study.plan.notes,
            )
            for study in self._studies.values()
        ]
        findings = Findings(
            *(self._options.name, self._goal, self._cores, self._memory, steps, self._variables(), model),
            *(self._recommendation, before, after),
            *([*self._runs.notes, *self._notes], self._is_interrupted, time.monotonic() - self._begun),
        )
        return replace(findings, variables={}) if findings.keeps_own else findings


def _with_expected(run: Run | None, model: FlowModel | None) -> Run | None:
    """Return a run with what the model says of it; it has what the other processes left of the cores."""
    if run is None or model is None:
        return run
    settings = {
        step.name: run.settings[step.name]._replace(threads=_nearest(run.settings[step.name].threads, step.curves))
        for step in model.steps
    }
    expected = model.predict(settings, run.load, run.outcome.speed)
    return replace(run, expected=expected, expected_memory=model.memory_of(settings))


def _nearest(threads: int, measured: Iterable[int]) -> int:
    return min(measured, key=lambda each: abs(each - threads))


def _doublings(most: int) -> list[int]:
    """Return 1, 2, 4 and so on, and the last number itself."""
    found = [1]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found if found[-1] == most else [*found, most]
