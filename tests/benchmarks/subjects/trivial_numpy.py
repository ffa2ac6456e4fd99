"""A handler that does nothing, in a module that imports numpy."""

from __future__ import annotations

import numpy  # noqa: F401

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class NothingWithNumpy(BaseTaskHandler):
    def handle(self, *tasks: BaseTask) -> None:
        pass
