"""A session: measures the steps of a flow, recommends settings, and runs the flow with them."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...engine.shape import Shape
from ...engine.system.cpu import available_cores
from ...flow import Flow, FlowStep
from ...task import BaseTask
from ..sample import Sample
from .bench import Bench, CallFailed
from .goal import Goal, Load
from .isolation import fixed_threads, largest_size, size_of, size_option
from .machine import free_memory
from .model import FlowModel, Settings, StepSettings, Way, names_on
from .plan import Limits, StepPlan
from .prepared import renewed
from .progress import Observer
from .recommendation import Recommendation, recommend
from .result import Findings, Run, StepFindings
from .study import StepStudy
from .variables import environment, variables_of

SAMPLES = 8
"""Samples that go through the flow."""

SIZES_SHARE, RUN_SHARE, LONGEST_RUN_SHARE = 0.4, 0.12, 0.25
"""Parts of the budget: for calls of all sizes; for each of two runs of the whole flow; the most for such a run."""

FURTHER_ANSWERS = 12
"""Answers of a run of the whole flow that count at least, beside one for each caller."""

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
        self._samples: list[BaseTask] = []
        self._ways: dict[int, list[Any]] = {}
        self._dispatch = DISPATCH
        self._before: Run | None = None
        self._after: Run | None = None
        self._recommendation: Recommendation | None = None
        self._run_time = RUN_SHARE * budget  # of the whole flow
        self._notes: list[str] = []
        self._measuring: asyncio.Task[None] | None = None
        self._is_interrupted = False

    async def run(self) -> Findings:
        """Measure.

        Returns:
            What was found, also after an interruption.

        Raises:
            AqueductError: A sample cannot be processed, or workers do not start.

        A cancellation ends all workers.
        """
        self._begun = time.monotonic()
        self._measuring = asyncio.ensure_future(self._measure())
        try:
            await self._measuring
        except asyncio.CancelledError:
            if not self._is_interrupted:
                self._measuring.cancel()
                raise
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
        self._samples = [self._sample.next_task() for _ in range(SAMPLES)]
        tasks = dict(enumerate(map(renewed, self._samples)))
        self._ways = {number: [] for number in tasks}
        try:
            await self._walk(self._flow.shape, tasks, self._ways)
        finally:
            self._ways = {number: self._ways[number] for number in tasks}

    async def _walk(self, shape: Shape, tasks: dict[int, BaseTask], ways: Mapping[int, list[Any]]) -> None:
        """Let the samples go through steps: one after the other, of a group side by side.

        Args:
            shape: The steps.
            tasks: The samples, by their numbers; those for which there was no time are removed.
            ways: Get the names of the steps.
        """
        for part in shape:
            if isinstance(part, str):
                await self._visit(self._studies[part], tasks, ways)
            else:
                await self._walk_branches(part, tasks, ways)

    async def _walk_branches(
        self, branches: Sequence[Shape], tasks: dict[int, BaseTask], ways: Mapping[int, list[Any]]
    ) -> None:
        before = {number: renewed(task) for number, task in tasks.items()}
        for number in tasks:
            ways[number].append([])
        for branch in branches:
            copies = {number: renewed(before[number]) for number in tasks}
            taken: dict[int, list[Any]] = {number: [] for number in tasks}
            await self._walk(branch, copies, taken)
            for number in tasks.keys() - copies.keys():
                del tasks[number]
            for number, task in copies.items():
                _merge(tasks[number], before[number], task)
                if taken[number]:
                    ways[number][-1].append(taken[number])
        for number in tasks:
            if not ways[number][-1]:
                ways[number].pop()

    async def _visit(self, study: StepStudy, tasks: dict[int, BaseTask], ways: Mapping[int, list[Any]]) -> None:
        visitors = {number: task for number, task in tasks.items() if study.step.handle_condition(task)}
        for number in visitors:
            ways[number].append(study.name)
        if not visitors:
            self._notes.append(f"no sample visits the step {study.name}: it keeps its settings")
            return
        names = list(self._studies)
        left = self._begun + SIZES_SHARE * self._budget - time.monotonic()
        done = await study.measure_sizes(visitors, max(1.0, left / (len(names) - names.index(study.name))))
        for number in visitors.keys() - done:
            del tasks[number]  # there was no time for it

    async def _run_before(self) -> None:
        settings = {
            name: StepSettings(study.step.nprocs, size_of(study.step), self._threads(study.step))
            for name, study in self._studies.items()
        }
        callers = min(2 * sum(own.nprocs * own.size for own in settings.values()), self._options.queue_size)
        self._observer.doing("the flow with its own settings")
        self._before = await self._run_flow(settings, Load(callers=callers))
        if self._before is not None:
            self._dispatch = self._before.outcome.dispatch

    async def _measure_workers(self) -> None:
        measured = [study for study in self._studies.values() if study.plan.is_measured]
        # The dearest first: if there is no time for all, the others matter less.
        measured.sort(key=lambda study: -study.visits * study.plan.costs().least_seconds)
        end = self._begun + self._budget - self._start_time() - self._run_time
        for place, study in enumerate(measured):
            left = end - time.monotonic()
            await study.measure_workers(max(0.0, left) * (0.6 if place < len(measured) - 1 else 1.0))

    def _recommend(self) -> None:
        if self._recommendation is None and (model := self._model()):
            self._recommendation = recommend(model, self._goal)

    async def _run_after(self) -> None:
        if self._recommendation is None:
            return
        self._observer.expect(self._start_time() + self._run_time)
        self._observer.doing("the flow with the recommended settings")
        with environment(self._variables()):
            settings, load = self._recommendation.settings, self._recommendation.load
            self._after = await self._run_flow(settings, load)

    async def _run_flow(self, settings: Settings, load: Load) -> Run | None:
        streams = any(study.streams for study in self._studies.values())
        least = 2 * load.callers + FURTHER_ANSWERS
        async with Bench.running(self._flow, streams) as bench:
            begun = time.monotonic()
            shortest, longest = RUN_SHARE * self._budget, LONGEST_RUN_SHARE * self._budget
            try:
                outcome = await bench.load(self._take, load, shortest, longest, least)
            except CallFailed as exc:
                self._notes.append(f"a run of the whole flow failed: {exc}; a larger --budget has longer runs")
                return None
            self._run_time = time.monotonic() - begun
        if len(outcome.times) < FURTHER_ANSWERS:
            self._notes.append(
                f"a run of the whole flow had only {len(outcome.times)} answers that count, so its figures are rough; "
                "a larger --budget has longer runs"
            )
        if outcome.failed:
            self._notes.append(f"{outcome.failed} tasks failed in the whole flow, the last: {outcome.error}")
        return Run(settings, load, outcome)

    def _take(self, count: int) -> list[BaseTask]:
        return [renewed(self._sample.next_task()) for _ in range(count)]

    def _study(self, name: str, step: FlowStep) -> StepStudy:
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
        ways = [_measured_way(way, names) for way in self._ways.values()]
        return FlowModel(steps, ways, self._dispatch, self._cores, self._memory) if steps else None

    def _variables(self) -> dict[str, str]:
        variables: dict[str, str] = {}
        if self._recommendation is not None:
            for name, own in self._recommendation.settings.items():
                study = self._studies[name]
                sets_threads = fixed_threads() is None
                variables |= variables_of(name, study.step, study.plan.costs(), own, self._settings, sets_threads)
        return variables

    def _visits(self, name: str) -> float:
        return sum(name in names_on(way) for way in self._ways.values()) / max(1, len(self._ways))

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
                self._visits(study.name),
                study.load_time,
                study.plan.notes,
            )
            for study in self._studies.values()
        ]
        return Findings(
            *(self._options.name, self._goal, self._cores, self._memory, steps, self._variables(), model),
            *(self._recommendation, before, after),
            *(self._notes, self._is_interrupted, time.monotonic() - self._begun),
        )


def _with_expected(run: Run | None, model: FlowModel | None) -> Run | None:
    """Return a run with what the model says of it; it has what the other processes left of the cores."""
    if run is None or model is None:
        return run
    settings = {
        step.name: run.settings[step.name]._replace(threads=_nearest(run.settings[step.name].threads, step.curves))
        for step in model.steps
    }
    expected = model.predict(settings, run.load, run.outcome.speed)
    return Run(run.settings, run.load, run.outcome, expected)


def _measured_way(way: Sequence[Any], names: set[str]) -> Way:
    """Return a way without the steps that were not measured."""
    found: list[Any] = []
    for part in way:
        if isinstance(part, str):
            found += [part] if part in names else []
        elif branches := [branch for branch in (_measured_way(each, names) for each in part) if branch]:
            found.append(branches)
    return found


def _nearest(threads: int, measured: Iterable[int]) -> int:
    return min(measured, key=lambda each: abs(each - threads))


def _doublings(most: int) -> list[int]:
    """Return 1, 2, 4 and so on, and the last number itself."""
    found = [1]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found if found[-1] == most else [*found, most]


def _merge(task: BaseTask, before: BaseTask, branch: BaseTask) -> None:
    """Give a task the fields that a branch has set, and take those that it has deleted."""
    old, new = _fields(before), _fields(branch)
    for name in old.keys() - new.keys():
        task.__dict__.pop(name, None)
    for name, value in new.items():
        if name not in old or pickle.dumps(old[name], 5) != pickle.dumps(value, 5):
            task.__dict__[name] = value


def _fields(task: BaseTask) -> dict[str, Any]:
    return {name: value for name, value in renewed(task).__dict__.items() if name != "task_id"}
