"""The code a user runs in the workers."""

from __future__ import annotations

from typing import Any


class BaseTaskHandler:
    """Works on tasks inside a worker process.

    The handler is built in the process that starts the flow, pickled, and rebuilt in every worker of its step:
    keep ``__init__`` light and load models in `on_start`.

    Example:
        ::

            class Classify(BaseTaskHandler):
                def on_start(self) -> None:
                    self.model = load_model()

                def handle(self, *tasks: ImageTask) -> None:
                    for task, label in zip(tasks, self.model([task.pixels for task in tasks])):
                        task.label = label
    """

    def on_start(self) -> None:
        """Prepare the worker. Runs once in each worker, before the flow counts as started.

        An exception ends the start: it is raised from ``Flow.start`` with the worker's traceback.
        """

    def handle(self, *tasks: Any) -> None:
        """Work on a batch: read the tasks' fields and set others.

        Args:
            tasks: From one to ``batch_size`` tasks of the step.

        An exception reaches the callers of these tasks as itself. ``task.fail(exc)`` fails one task of a batch.
        What is returned is ignored. A caller that goes away does not interrupt a batch: its result is dropped.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define handle(self, *tasks)")

    def on_stop(self) -> None:
        """Release what `on_start` took. Runs in the worker when it is stopped, not when it is killed."""

    @classmethod
    def get_step_name(cls, step_number: int) -> str:
        """Name the step in logs, errors and metrics.

        Args:
            step_number: Position of the step in its flow, counted from 1.
        """
        return f"step{step_number}_{cls.__name__}"
