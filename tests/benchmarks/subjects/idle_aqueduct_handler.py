"""A handler of the package ``aqueduct``; not in the module of the app, which is being imported when workers fork."""

from __future__ import annotations

from aqueduct import BaseTask, BaseTaskHandler


class Nothing(BaseTaskHandler):  # type: ignore[misc]  # the package has no types
    def handle(self, *tasks: BaseTask) -> None:
        pass
