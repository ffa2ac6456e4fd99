"""The steps of a flow by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from .engine.statistics import FlowStatistics, StepStatistics
from .exceptions import UnknownStep
from .handler import BaseTaskHandler
from .step import FlowStep


class Measured(Protocol):
    """The flow that steps belong to."""

    @property
    def name(self) -> str:
        """Name of the flow."""

    def statistics(self) -> FlowStatistics:
        """Return a snapshot."""


class Step:
    """One step of a flow: ``flow.steps["classify"]``.

    Two objects are equal if they stand for the same step of the same flow.

    Args:
        flow: The flow.
        position: Position of the step in the flow, counted from 0.
        name: Name of the step.
        declared: The declaration of the step.

    Attributes:
        name: Its name in logs, metrics, probes and errors: the ``name`` of its `FlowStep`, else the numbered name.
        numbered_name: Its name by position and handler, such as ``step1_Classify``.
        position: As given.
    """

    def __init__(self, flow: Measured, position: int, name: str, declared: FlowStep) -> None:
        self._flow = flow
        self._declared = declared
        self.position = position
        self.name = name
        self.numbered_name = declared.handler.get_step_name(position + 1)

    @property
    def handler_class(self) -> type[BaseTaskHandler]:
        """The class of its handler."""
        return type(self._declared.handler)

    @property
    def nprocs(self) -> int:
        """Number of worker processes that it should have; `statistics` counts those that it has."""
        return self._declared.nprocs

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
        named: Its steps with their names.
    """

    def __init__(self, flow: Measured, named: list[tuple[str, FlowStep]]) -> None:
        self._flow = flow
        self._steps = {name: Step(flow, position, name, step) for position, (name, step) in enumerate(named)}

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
