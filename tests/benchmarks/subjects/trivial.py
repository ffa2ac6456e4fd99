"""A handler that does nothing, in a module that does not import numpy."""

from __future__ import annotations

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class Nothing(BaseTaskHandler):
    def handle(self, *tasks: BaseTask) -> None:
        pass
