"""What a worker imports, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow

from ..handlers import Each, Job, list_modules
from ..support import DEADLINE, running, script_environment

FORBIDDEN = {
    "anyio",
    "asyncio",
    "fastapi",
    "httptools",
    "multipart",
    "prometheus_client",
    "pydantic",
    "python_multipart",
    "starlette",
    "uvicorn",
    "uvloop",
}


def modules_after(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "statement",
    [
        "import fastapi_aqueduct, fastapi_aqueduct.engine.child.main",
        "from fastapi_aqueduct import BaseTask, BaseTaskHandler, Upload",
        "import fastapi_aqueduct.call",
        "import fastapi_aqueduct.sagemaker.invocation",
        "from fastapi_aqueduct.sagemaker import MIMEAccept, plugin_hook",
        "import fastapi_aqueduct.engine.child.bootstrap",
    ],
)
def test_what_a_worker_imports_brings_no_server_and_no_numpy(statement: str) -> None:
    assert modules_after(statement) & (FORBIDDEN | {"numpy"}) == set()


@pytest.mark.parametrize("names", ["BaseTask, BaseTaskHandler, Flow, FlowStep, Upload", "in_worker"])
def test_a_pipeline_module_brings_no_web_framework(names: str) -> None:
    """The module with tasks, handlers and the flow itself, or with functions, is what workers import."""
    statement = f"from fastapi_aqueduct import {names}"
    assert modules_after(statement) & {"fastapi", "starlette", "pydantic", "uvicorn", "numpy"} == set()


async def test_a_worker_that_has_worked_has_no_server() -> None:
    async with running(Flow(Each(list_modules))) as flow:
        modules = (await flow.process(Job())).modules
    assert "fastapi_aqueduct.engine.child.runners" in modules
    assert modules & FORBIDDEN == set()


def test_the_bootstrap_needs_no_path() -> None:
    """It runs before ``sys.path`` is that of the application: it may import the standard library only."""
    bootstrap = Path(__file__).parents[2] / "fastapi_aqueduct" / "engine" / "child" / "bootstrap.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(bootstrap)], capture_output=True, text=True, timeout=DEADLINE, cwd="/"
    )
    assert "spawned() missing" in done.stderr  # it came as far as to look for its arguments
