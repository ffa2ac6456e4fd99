"""What a step costs: the time, the processor time and the memory of its calls, by their size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .stations import Work

KNEE = 0.9
"""Share of the highest throughput above which larger batches are not worth their latency."""


@dataclass(frozen=True)
class Point:
    """The measurement of one size.

    Attributes:
        size: Tasks in a call; of calls that run side by side, their number.
        seconds: Seconds of a call, without the time spent waiting for a core.
        cpu: Processor time of a call in seconds; of calls that run side by side, of all of them.
        spread: The interquartile range of the seconds, divided by their median.
        calls: Number of measured calls.
        memory: Bytes of private memory of the worker.
    """

    size: int
    seconds: float
    cpu: float
    spread: float = 0.0
    calls: int = 1
    memory: int = 0

    @property
    def throughput(self) -> float:
        """Tasks per second of one worker."""
        return self.size / self.seconds


@dataclass(frozen=True)
class Curve:
    """The cost of a call by its size.

    Attributes:
        points: The measurements, by ascending size; one at least.
    """

    points: Sequence[Point]

    def seconds(self, size: float) -> float:
        """Return the seconds of a call."""
        return self._at(size, self._seconds, self.per_task)

    def cpu(self, size: float) -> float:
        """Return the processor time of a call."""
        return self._at(size, self._cpu, self._cpu_per_task)

    def memory(self, size: float) -> int:
        """Return the private memory of a worker: the most that calls up to this size have needed."""
        return max([point.memory for point in self.points if point.size <= size] or [self.points[0].memory])

    @property
    def fixed(self) -> float:
        """Seconds of a call that do not depend on the number of its tasks."""
        return self._fit[0]

    @property
    def per_task(self) -> float:
        """Seconds that each task adds to a call."""
        return self._fit[1]

    @cached_property
    def knee(self) -> Point:
        """The smallest size with nearly the highest throughput."""
        best = max(point.throughput for point in self.points)
        return next(point for point in self.points if point.throughput >= KNEE * best)

    @cached_property
    def _fit(self) -> tuple[float, float]:
        return _line(self._sizes, self._seconds)

    # A simulation asks for them in each call.
    @cached_property
    def _sizes(self) -> Sequence[int]:
        return [point.size for point in self.points]

    @cached_property
    def _seconds(self) -> Sequence[float]:
        return [point.seconds for point in self.points]

    @cached_property
    def _cpu(self) -> Sequence[float]:
        return [point.cpu for point in self.points]

    @cached_property
    def _cpu_per_task(self) -> float:
        return _line(self._sizes, self._cpu)[1]

    def _at(self, size: float, values: Sequence[float], per_task: float) -> float:
        """Interpolate between two sizes; beyond them all follow the line through all."""
        sizes = self._sizes
        place = bisect_left(sizes, size)
        if place == len(sizes):
            return values[-1] + per_task * (size - sizes[-1])
        if sizes[place] == size or place == 0:
            return values[place]
        share = (size - sizes[place - 1]) / (sizes[place] - sizes[place - 1])
        return values[place - 1] + share * (values[place] - values[place - 1])


@dataclass(frozen=True)
class StepCosts:
    """What a step costs.

    Attributes:
        name: Name of the step.
        curves: The cost of a call by its size, for each number of threads.
        is_side_by_side: Whether a worker has several calls under way, each of one task, rather than batches.
        most_workers: Largest useful number of workers.
        slowdowns: The time of a call under a load, divided by that of a single call, by the number of workers.
    """

    name: str
    curves: Mapping[int, Curve]
    is_side_by_side: bool = False
    most_workers: int = 1
    slowdowns: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})

    def slowdown(self, workers: int) -> float:
        """Return the time of a call under a load, divided by that of a single call.

        Args:
            workers: Number of workers that are busy at the same time.
        """
        return self.slowdowns[max(count for count in self.slowdowns if count <= max(workers, 1))]

    @property
    def least_seconds(self) -> float:
        """Seconds of a task with the best size and number of threads."""
        return min(1 / curve.knee.throughput for curve in self.curves.values())

    def computes(self, threads: int) -> bool:
        """Return whether a call is mostly computation, rather than a wait for a device or another machine."""
        point = self.curves[threads].knee
        return point.cpu > point.seconds / 2

    def cpu(self, threads: int, size: int, slowdown: float) -> float:
        """Return the processor time of a call.

        Args:
            threads: Threads of numeric libraries in each worker.
            size: Tasks of the call, or calls side by side.
            slowdown: Factor on the time of a call. Waiting for a device needs no core.
        """
        return self.curves[threads].cpu(size) * (slowdown if self.computes(threads) else 1.0)

    def work(self, threads: int, size: int, slowdown: float) -> Work:
        """Return the work of a worker for a call.

        Args:
            threads: Threads of numeric libraries in each worker.
            size: Tasks of the call, or calls side by side.
            slowdown: Factor on the time of a call.
        """
        seconds, cpu = self.curves[threads].seconds(size) * slowdown, self.cpu(threads, size, slowdown)
        if cpu > seconds:
            return Work(seconds, 0.0, cpu / seconds)
        return Work(cpu, seconds - cpu)


def _line(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return the fixed part and the part of each task, by least squares of the relative errors."""
    if len(sizes) == 1:
        return 0.0, values[0] / sizes[0]
    weights = [1 / (value * value or 1.0) for value in values]
    total = sum(weights)
    mean_size = sum(weight * size for weight, size in zip(weights, sizes, strict=True)) / total
    mean = sum(weight * value for weight, value in zip(weights, values, strict=True)) / total
    square = sum(weight * (size - mean_size) ** 2 for weight, size in zip(weights, sizes, strict=True))
    product = sum(
        weight * (size - mean_size) * (value - mean)
        for weight, size, value in zip(weights, sizes, values, strict=True)
    )
    slope = max(0.0, product / square)
    fixed = mean - slope * mean_size
    return (fixed, slope) if fixed >= 0 else (0.0, mean / mean_size)
