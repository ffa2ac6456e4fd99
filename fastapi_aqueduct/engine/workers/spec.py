"""What the workers of a step run, and with which options."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ...exceptions import ConfigurationError
from ...step import FlowStep
from ..child.bootstrap import pack_prelude
from ..child.program import Program, ProgramFile
from .start_errors import launch_error


@dataclass(frozen=True, eq=False)
class WorkerSpec:
    """What the workers of a step run, and with which options.

    Attributes:
        index: Index of the step.
        name: Name of the step.
        step: Its declared options.
        program: The handler and the conditions, which only a worker unpickles.
        prelude: Makes an interpreter like the one in which they were pickled; see `bootstrap.pack_prelude`.
        version: Counts from 1; another handler for the same step is another version.
    """

    index: int
    name: str
    step: FlowStep
    program: ProgramFile
    prelude: bytes
    version: int = 1

    def close(self) -> None:
        """Release the memory of the program, when no more workers are launched."""
        self.program.close()


def make_specs(flow: str, steps: Sequence[tuple[str, FlowStep]]) -> list[WorkerSpec]:
    """Pickle what the workers of each step run, once for all of them.

    Args:
        flow: Name of the flow.
        steps: Its steps, each with its name.

    Raises:
        ConfigurationError: A handler or condition cannot be pickled.
        StartError: No descriptor or no memory is left.
    """
    conditions = [step.handle_condition for _, step in steps]
    prelude = pack_prelude()
    specs = []
    with ExitStack() as undo:
        for index, (name, step) in enumerate(steps):
            try:
                data = pickle.dumps(Program(step.handler, conditions), 5)
            except Exception:
                _blame(flow, steps)
                raise
            try:
                program = ProgramFile(f"{flow}:{name}", data)
            except OSError as exc:
                raise launch_error(flow, name, exc) from exc
            undo.callback(program.close)
            specs.append(WorkerSpec(index, name, step, program, prelude))
        undo.pop_all()
    return specs


def _blame(flow: str, steps: Sequence[tuple[str, FlowStep]]) -> None:
    """Find the handler or condition that cannot be pickled.

    Raises:
        ConfigurationError: This one.
    """
    for name, step in steps:
        for what, value in (("handler", step.handler), ("handle_condition", step.handle_condition)):
            try:
                pickle.dumps(value, 5)
            except Exception as exc:
                raise ConfigurationError(
                    f"the {what} of {name} in flow {flow} cannot be sent to a worker process: {exc}; "
                    "define it at the top level of a module, and create what cannot be pickled in on_start"
                ) from exc
