"""What a session has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from .costs import StepCosts
from .goal import Goal, Load
from .load_run import Outcome
from .model import FlowModel, Settings
from .prediction import Prediction
from .recommendation import Recommendation

EQUAL = 0.05
"""The difference of two rates that is not worth a word."""

COMPARABLE = 0.25
"""Cores of other processes by which two runs may differ and still be compared."""


class Comparison(Enum):
    """What the two runs of the whole flow say about the recommended settings, beside its own.

    Attributes:
        NONE: Nothing: there are no two runs, or their loads differ in kind or in rate.
        SAME_RATE: Both had the same rate of tasks, so only their times differ.
        DISTURBED: Nothing: other processes used more of the cores during one of them.
        FASTER: The rate with the recommended settings is higher.
        EQUAL: The rates are nearly the same.
        SLOWER: The rate with its own settings is higher.
    """

    NONE = auto()
    SAME_RATE = auto()
    DISTURBED = auto()
    FASTER = auto()
    EQUAL = auto()
    SLOWER = auto()


@dataclass(frozen=True)
class StepFindings:
    """What was found of a step.

    Attributes:
        name: Its name.
        size_option: The option that is its size: ``batch_size`` or ``concurrency``.
        costs: What it costs; None if it was not measured.
        rates: Tasks per second by the number of workers.
        visits: The part of the samples that visit it.
        load_time: Seconds from the launch of a worker until it is ready.
        notes: What the user should know about the measurements.
    """

    name: str
    size_option: str
    costs: StepCosts | None
    rates: Mapping[int, float] = field(default_factory=dict)
    visits: float = 1.0
    load_time: float = 0.0
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """A run of the whole flow.

    Attributes:
        settings: The settings of its steps, of those that were measured.
        load: The load.
        outcome: What it did.
        expected: What the model says, with cores as fast as they were for it meanwhile; None without a model.
        expected_memory: What the model says of the memory of the workers; 0 without a model.
    """

    settings: Settings
    load: Load
    outcome: Outcome
    expected: Prediction | None = None
    expected_memory: int = 0

    @property
    def rate_error(self) -> float | None:
        """By what part the model is wrong about the tasks per second; None without a model."""
        return None if self.expected is None else self.expected.rate / self.outcome.rate - 1

    @property
    def time_error(self) -> float | None:
        """By what part the model is wrong about the mean of the seconds of a task; None without a model."""
        return None if self.expected is None else self.expected.mean / self.outcome.mean - 1

    @property
    def memory_error(self) -> float | None:
        """By what part the model is wrong about the memory of the workers; None without a model."""
        if self.expected is None or not self.outcome.memory:
            return None
        return self.expected_memory / self.outcome.memory - 1


@dataclass(frozen=True)
class Findings:
    """What a session has found.

    Attributes:
        flow: Name of the flow.
        goal: What the user wants.
        cores: Cores that the flow may use.
        memory: Bytes that its workers may have; None if that is not known.
        steps: What was found of each step.
        variables: The settings that are recommended, as variables of the environment; none if the flow keeps its own.
        model: The model; None if too little was measured.
        recommendation: What is recommended; None as for the model.
        before: The run with the settings that the flow has; None if there was none.
        after: The run with those that are recommended; None if there was none.
        notes: What the user should know.
        is_interrupted: Whether the user has ended the session before its time.
        seconds: How long it took.
    """

    flow: str
    goal: Goal
    cores: int
    memory: int | None
    steps: Sequence[StepFindings]
    variables: Mapping[str, str]
    model: FlowModel | None
    recommendation: Recommendation | None
    before: Run | None
    after: Run | None
    notes: Sequence[str]
    is_interrupted: bool
    seconds: float

    @property
    def comparison(self) -> Comparison:
        """What the two runs say about the recommended settings."""
        before, after = self.before, self.after
        if before is None or after is None:
            return Comparison.NONE
        if not (before.load.callers and after.load.callers):
            return Comparison.SAME_RATE if before.load == after.load else Comparison.NONE
        if abs(before.outcome.foreign_cores - after.outcome.foreign_cores) > COMPARABLE:
            return Comparison.DISTURBED
        growth = after.outcome.rate / before.outcome.rate - 1
        if abs(growth) <= EQUAL:
            return Comparison.EQUAL
        return Comparison.FASTER if growth > 0 else Comparison.SLOWER

    @property
    def keeps_own(self) -> bool:
        """Whether the flow was faster with its own settings."""
        return self.comparison is Comparison.SLOWER
