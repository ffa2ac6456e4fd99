"""Tasks that share runs, and their handlers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTaskHandler, FlowStep

from ..handlers import Gate, Job, note

SMALL, LARGE = 100, 50_000
"""Elements of arrays in a message, and in shared memory."""


class Page(Job):
    """A page of a user; pages with an equal digest are one and the same.

    Args:
        digest: The key.
        user: Whose it is.
        size: Elements of its arrays.
        directory: Where the handler notes its runs, and waits at a gate.
        acts: What the handler does in its first runs, one after the other; then it sets the text.
        **fields: Further fields.
    """

    def __init__(
        self, digest: Any, user: str, directory: Path, size: int = SMALL, acts: tuple[str, ...] = (), **fields: Any
    ) -> None:
        super().__init__(**fields)
        self.digest = digest
        self.user = user
        self.directory = directory
        self.gate = Gate(directory)
        self.acts = acts
        self.image = np.full(size, 7, np.uint8)
        self.text = ""
        self.result: Any = None


class Letter(Page):
    """Another class of tasks."""


def owned(task: Page) -> tuple[str, Any]:
    """Return a key with the user in it."""
    return task.user, task.digest


def is_long(task: Any) -> bool:
    """Stand for a condition that the tasks of one run meet or not."""
    return bool(task.user.startswith("long"))


class Ocr(BaseTaskHandler):
    """Notes each run, waits at the gate, and reads pages."""

    def handle(self, *tasks: Page) -> None:
        for task in tasks:
            runs = task.directory / "runs"
            note(runs, f"{task.user}/{task.digest}")
            number = len(runs.read_text().split()) - 1
            act = task.acts[number] if number < len(task.acts) else "read"
            task.gate.enter()
            if act == "raise":
                raise ValueError(f"page {task.digest} of {task.user}")
            if act == "die":
                os._exit(3)
            if act == "wait":
                while not task.is_cancelled:
                    pass
                note(task.directory / "cancelled", task.user)
                return
            task.text = f"{task.digest} read for {task.user}"
            task.result = task.image + 1
            if act == "share":
                task.share_value("result")
            if act == "delete":
                del task.note


class Stamp(BaseTaskHandler):
    """Visits pages after they were read."""

    def handle(self, *tasks: Page) -> None:
        for page in tasks:
            task: Any = page
            task.stamp = f"{task.user}: {task.text}"
            if task.result is not None and task.result.flags.writeable:
                task.result += 1


class Side(BaseTaskHandler):
    """Works on pages beside `Ocr`; those of the user "both" get the same field from it."""

    def handle(self, *tasks: Page) -> None:
        for page in tasks:
            task: Any = page
            note(task.directory / "sides", task.user)
            task.side = task.user
            if task.user == "both":
                task.text = "seen"


def ocr(key: Any = "digest", **options: Any) -> FlowStep:
    return FlowStep(Ocr(), coalesce_key=key, name="ocr", **options)


def stamp(**options: Any) -> FlowStep:
    return FlowStep(Stamp(), name="stamp", **options)
