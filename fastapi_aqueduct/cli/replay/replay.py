"""A recorded task, and the flow that it is run through."""

from __future__ import annotations

from asyncio import Runner
from typing import Self

from ...engine.shape import Shape, rest_of
from ...exceptions import ConfigurationError
from ...flow import Flow
from ...recording.task_file import TaskFile
from ..target import find_flow
from .run import Progress, Run


class Replay:
    """A recorded task, and the flow that it is run through.

    Args:
        file: The task.
        target: Where the flow is, as ``module:name``.
        flow: The flow.

    Attributes:
        file: As given.
        target: As given.
        flow: As given.
        step: Name of the step that has failed.

    Raises:
        ConfigurationError: The environment sets what cannot be.
    """

    def __init__(self, file: TaskFile, target: str, flow: Flow) -> None:
        self.file = file
        self.target = target
        self.flow = flow
        self.step: str = file.metadata["step"]
        self._options = flow._configuration.read()

    @classmethod
    def prepare(cls, file: TaskFile, target: str | None, flow_name: str | None) -> Self:
        """Import the flow of a recorded task.

        Args:
            file: The task.
            target: Where the flow is, as ``module:name``; None: where it was.
            flow_name: The name of the flow; None: that of the record.

        Raises:
            ConfigurationError: There is no such flow, or it has no such step.
            Exception: What the module has raised.
        """
        metadata = file.metadata
        target = target or metadata["target"]
        if target is None:
            raise ConfigurationError(
                f"flow {metadata['flow']} was no attribute of a module when the task was recorded: say where it is, "
                f"fastapi-aqueduct replay {file.path} MODULE:NAME"
            )
        flow = find_flow(target, flow_name or metadata["flow"])
        if metadata["step"] not in flow.steps:
            raise ConfigurationError(
                f"flow {flow.name} has no step {metadata['step']}, in which the task has failed, but "
                f"{', '.join(flow.steps)}: use the code of that time, or a test of your own with "
                f"read_task({str(file.path)!r}) and inline(flow, steps=[...])"
            )
        return cls(file, target, flow)

    def shape(self, step_only: bool) -> Shape:
        """Return the steps to run; see `rest_of`.

        Args:
            step_only: Whether to run only the step that has failed.
        """
        return (self.step,) if step_only else rest_of(self.flow.shape, self.step)

    def run(self, progress: Progress, step_only: bool) -> BaseException | None:
        """Run the task; return the exception with which it fails.

        Args:
            progress: Shows each step.
            step_only: Whether to end after the step that has failed.

        Raises:
            RecordingError: The task cannot be restored.
            KeyboardInterrupt: On Ctrl-C.
        """
        task = self.file.make_task()
        try:
            with Runner() as loop:
                run = Run(self._options, self.file.metadata, loop, progress)
                run.prepare(self.step)
                run.process(self.shape(step_only), task)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # also SystemExit, which fails a task in a worker
            return exc
        return None
