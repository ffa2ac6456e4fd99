"""The fingerprint of a flow: the same in each process with the same code and declaration, and in no other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Autoscale, BaseTaskHandler, Flow, FlowStep, WorkerOptions
from fastapi_aqueduct.engine.shared.fingerprint import fingerprint_of

from ..support import run_script

SCRIPT = """
    import os
    from contextvars import ContextVar

    from fastapi_aqueduct import Autoscale, Flow, FlowStep
    from fastapi_aqueduct.engine.shared.fingerprint import fingerprint_of
    from ocr.handlers import Read, is_page

    REQUEST = ContextVar("request")
    flow = Flow(
        FlowStep(Read(), is_page, nprocs=Autoscale(0, 4)),
        context=[REQUEST],
        template=is_page,
    )
    print(fingerprint_of(flow._lifecycle.options))
"""

HANDLERS = """
import os
from fastapi_aqueduct import BaseTaskHandler

class Read(BaseTaskHandler):
    def __init__(self):
        self.words = {"some", "words", "in", "a", "set"}
        self.pid = os.getpid()

    def handle(self, *tasks):
        import ocr.later

def is_page(task=None):
    return True
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ocr").mkdir()
    (tmp_path / "ocr" / "__init__.py").touch()
    (tmp_path / "ocr" / "handlers.py").write_text(HANDLERS)
    (tmp_path / "ocr" / "later.py").write_text("VALUE = 1\n")
    return tmp_path


def test_it_is_the_same_in_each_process_until_the_code_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in ("0", "1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.append(run_script(folder, SCRIPT))
    os.utime(folder / "ocr" / "handlers.py", (1, 1))
    (folder / "notes.txt").write_text("no code")
    found.append(run_script(folder, SCRIPT))
    assert len(set(found)) == 1
    (folder / "ocr" / "later.py").write_text("VALUE = 2\n")  # only workers import it
    found.append(run_script(folder, SCRIPT))
    found.append(run_script(folder, SCRIPT + "    # changed\n"))
    assert len(set(found)) == 3
    assert all(len(text.strip()) == 32 for text in found)


class Read(BaseTaskHandler):
    def __init__(self, model: str = "first") -> None:
        self.model = model

    def handle(self, *tasks: Any) -> None:
        pass


class Write(Read):
    pass


def variables(index: int) -> dict[str, str]:
    return {}


def fingerprint(*steps: FlowStep | BaseTaskHandler, **options: Any) -> str:
    return fingerprint_of(Flow(*steps, **options)._lifecycle.options)


def test_it_counts_what_is_declared() -> None:
    different = [
        fingerprint(Read()),
        fingerprint(Write()),
        fingerprint(Read(), Read()),
        fingerprint(Read(), name="ocr"),
        fingerprint(Read(), queue_size=7),
        fingerprint(Read(), worker_init=Read),
        fingerprint(FlowStep(Read(), nprocs=2)),
        fingerprint(FlowStep(Read(), nprocs=Autoscale(1, 2))),
        fingerprint(FlowStep(Read(), nprocs=Autoscale(1, 3))),
        fingerprint(FlowStep(Read(), variables)),
        fingerprint(FlowStep(Read(), worker=WorkerOptions(env=variables))),
        fingerprint(FlowStep(Read(), worker=WorkerOptions(["0"]))),
    ]
    assert len(set(different)) == len(different)
    assert fingerprint(FlowStep(Read())) == fingerprint(Read(), tracing=False)


def test_it_stays_when_a_handler_is_replaced() -> None:
    flow = Flow(Read())
    before = fingerprint_of(flow._lifecycle.options)
    flow._configuration.keep(0, Write("second"))
    assert fingerprint_of(flow._lifecycle.options) == before
