"""What is to be measured next of a step: a policy without a clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .costs import Curve, Point, StepCosts
from .model import StepSettings

FLAT = 1.03
"""Minimum growth of the throughput when the size doubles; below it no larger size is measured."""

NEARLY_FLAT = 1.1
"""The same for two doublings in a row."""

WORTHWHILE = 1.1
"""Minimum growth of the throughput with more threads or twice the workers; below it no more are measured."""

QUICKEST = 0.8
"""Lower limit of a slowdown: a call under a load is faster than a single one only by chance."""

MOST_WORKERS = 16
"""Largest number of workers tried for a step that waits rather than computes."""


class Trial(NamedTuple):
    """A measurement.

    Attributes:
        settings: Settings of the step.
        is_load: Whether all workers are kept busy, rather than single calls measured.
    """

    settings: StepSettings
    is_load: bool = False


@dataclass(frozen=True)
class Limits:
    """What can be tried of a step.

    Attributes:
        size: The largest size.
        threads: Numbers of threads, in ascending order.
        cores: The cores of the machine.
        memory: Bytes that its workers may use; None: no limit.
        is_side_by_side: As for `StepCosts`.
    """

    size: int
    threads: Sequence[int]
    cores: int
    memory: int | None = None
    is_side_by_side: bool = False


@dataclass
class StepPlan:
    """Chooses the measurements of a step, one after the other, by the results of those before.

    First the sizes with one worker, then more threads at the size of the knee, then more workers.

    Attributes:
        name: Name of the step.
        limits: What can be tried.
        notes: What the user should know about the measurements.
    """

    name: str
    limits: Limits
    notes: list[str] = field(default_factory=list)
    _points: dict[int, list[Point]] = field(default_factory=dict)
    _rates: dict[int, float] = field(default_factory=dict)
    _slowdowns: dict[int, float] = field(default_factory=lambda: {1: 1.0})
    _ended: set[str] = field(default_factory=set)

    def next_trial(self) -> Trial | None:
        """Return the next measurement; None if there is nothing more to learn."""
        return next(self._wanted(), None)

    def expected_time(self, trial: Trial) -> float | None:
        """Return the seconds of a call that are expected in a measurement; None before the first one."""
        points = self._points.get(trial.settings.threads) or self._points.get(self.limits.threads[0])
        return Curve(points).seconds(trial.settings.size) if points else None

    def note_point(self, trial: Trial, point: Point) -> None:
        """Note the result of single calls."""
        self._points.setdefault(trial.settings.threads, []).append(point)
        self._points[trial.settings.threads].sort(key=lambda point: point.size)

    def note_rate(self, trial: Trial, rate: float, expected: float) -> None:
        """Note the result of a load.

        Args:
            trial: The measurement.
            rate: Tasks per second, as on an idle machine.
            expected: What the model says, by the times of single calls.
        """
        self._rates[trial.settings.nprocs] = rate
        self._slowdowns[trial.settings.nprocs] = max(QUICKEST, expected / rate)

    def end(self, trial: Trial, reason: str) -> None:
        """Note that a measurement is not possible, nor those beyond it.

        Args:
            trial: The measurement.
            reason: Why, for the user.
        """
        self._ended.add(_series(trial))
        self.notes.append(reason)

    @property
    def is_measured(self) -> bool:
        """Whether there is anything to calculate with."""
        return bool(self._points)

    def costs(self) -> StepCosts:
        """Return what is known of the step."""
        return replace(
            self.costs_without_workers(), most_workers=self._most_workers(), slowdowns=dict(self._slowdowns)
        )

    def costs_without_workers(self) -> StepCosts:
        """Return what is known of the calls of one worker."""
        curves: dict[int, Curve] = {}
        for threads, points in sorted(self._points.items()):
            curve = Curve(tuple(points))
            fewer = max((other.knee.throughput for other in curves.values()), default=0.0)
            if curve.knee.throughput >= WORTHWHILE * fewer:
                curves[threads] = curve
        return StepCosts(self.name, curves, self.limits.is_side_by_side)

    @property
    def rates(self) -> dict[int, float]:
        """Tasks per second by the number of workers, as measured."""
        return dict(self._rates)

    def _wanted(self) -> Iterator[Trial]:
        yield from self._sizes()
        if self._points:
            yield from self._threads()
            yield from self._workers()

    def _sizes(self) -> Iterator[Trial]:
        threads = self.limits.threads[0]
        measured = {point.size: point for point in self._points.get(threads, ())}
        size = 1
        while size <= self.limits.size and not _has_flattened(list(measured.values())):
            if size not in measured:
                trial = Trial(StepSettings(1, size, threads))
                if _series(trial) not in self._ended:
                    yield trial
                return
            size *= 2

    def _threads(self) -> Iterator[Trial]:
        if not self._is_computing():
            return
        for before, threads in zip(self.limits.threads, self.limits.threads[1:], strict=False):
            knee = Curve(self._points[before]).knee
            known = {point.size: point for point in self._points.get(threads, ())}
            for size in dict.fromkeys((knee.size, 1)):
                trial = Trial(StepSettings(1, size, threads))
                if size not in known:
                    if _series(trial) not in self._ended:
                        yield trial
                    return
            if known[knee.size].throughput < WORTHWHILE * knee.throughput:
                return

    def _workers(self) -> Iterator[Trial]:
        threads = self.limits.threads[0]  # many workers of few threads do more than few of many
        knee = Curve(self._points[threads]).knee
        most = self._affordable(knee)
        count, before = 1, 0.0
        while count <= most:
            if count not in self._rates:
                trial = Trial(StepSettings(count, knee.size, threads), is_load=True)
                if _series(trial) not in self._ended:
                    yield trial
                return
            if self._rates[count] < WORTHWHILE * before:
                return
            before = self._rates[count]
            count = min(2 * count, most) if count < most else most + 1

    def _affordable(self, knee: Point) -> int:
        """Return the largest number of workers to try: what the cores and the memory allow."""
        most = MOST_WORKERS
        if self._is_computing():
            most = max(1, self.limits.cores // max(1, round(knee.cpu / knee.seconds)))
        if self.limits.memory is not None and knee.memory:
            most = min(most, max(1, self.limits.memory // knee.memory))
        return most

    def _most_workers(self) -> int:
        """Return the largest useful number of workers; if it was not measured, the number of cores."""
        if len(self._rates) < 2:
            return max(1, self.limits.cores if self._points and self._is_computing() else 1)
        counts = sorted(self._rates)
        worthwhile = counts[0]
        for before, count in zip(counts, counts[1:], strict=False):
            if self._rates[count] >= WORTHWHILE * self._rates[before]:
                worthwhile = count
        return worthwhile

    def _is_computing(self) -> bool:
        return self.costs_without_workers().computes(self.limits.threads[0])


def _series(trial: Trial) -> str:
    """Name the series that a measurement belongs to: it ends as a whole."""
    return "workers" if trial.is_load else f"threads {trial.settings.threads}"


def _has_flattened(points: Sequence[Point]) -> bool:
    growths = [larger.throughput / smaller.throughput for smaller, larger in zip(points, points[1:], strict=False)]
    return bool(growths) and (growths[-1] < FLAT or (len(growths) > 1 and max(growths[-2:]) < NEARLY_FLAT))
