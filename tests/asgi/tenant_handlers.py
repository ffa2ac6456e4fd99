"""Tasks of tenants, and what works on them; imports no web framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload

from ..handlers import Gate


class Plain(BaseTask):
    """A task without a field for its tenant."""

    def __init__(self, gate: str = "") -> None:
        super().__init__()
        self.gate = gate
        self.told = ""


class Own(BaseTask):
    """A task whose constructor takes its tenant."""

    def __init__(self, tenant: str, gate: str = "") -> None:
        super().__init__()
        self.tenant = tenant
        self.gate = gate
        self.told = ""


@dataclass
class Sheet(BaseTask):
    """An upload of a tenant."""

    image: Upload
    tenant: str
    gate: str = ""
    told: str = field(default="", init=False)


class Tell(BaseTaskHandler):
    """Notes whose a task is and how urgent; waits at its gate, a directory."""

    def handle(self, task: Plain | Own | Sheet) -> None:
        if task.gate:
            Gate(Path(task.gate)).enter()
        task.told = f"{vars(task).get('tenant')} {task.priority}"


class TellInItems(BaseTaskHandler):
    """Yields whose a task is."""

    def handle(self, task: Plain) -> Iterator[str]:
        yield str(vars(task).get("tenant"))
