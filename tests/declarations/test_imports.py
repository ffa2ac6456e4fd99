"""A worker that cannot import its handler says which, from where, and what to do in that case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, script_environment, write_script

HANDLER = """
    import asyncio, sys
    from fastapi_aqueduct import BaseTaskHandler, Flow

    class H(BaseTaskHandler):
        def handle(self, *tasks):
            pass

"""
START = """
    flow = Flow(H(), mp_start_method="{method}")
    flow.start()
"""
GUARD = 'put what starts the application under `if __name__ == "__main__":`'
TYPED = "what is typed in or piped to Python exists in this process only; write it to a module and import it"


def failure(directory: Path, *arguments: str, stdin: str = "") -> str:
    """Run Python, which must fail, and return the last line of what it says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=script_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode != 0, done.stdout
    errors = re.findall(r"^fastapi_aqueduct\.exceptions\.StartError: (.*)$", done.stderr, re.MULTILINE)
    assert errors, done.stderr
    return re.sub(r"\(pid \d+\)", "(pid N)", str(errors[-1]))


def source(text: str, method: str = "spawn") -> str:
    return "\n".join(line.removeprefix("    ") for line in (HANDLER + text.format(method=method)).splitlines())


WHERE = "a worker of step1_H in flow flow (pid N)"
CANNOT = f"{WHERE} cannot work: the worker cannot import class H from"


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    script = write_script(tmp_path, source(START))
    assert failure(tmp_path, str(script)) == f"{CANNOT} {script}: it starts flow flow when it is imported; {GUARD}"


def test_a_script_without_a_guard_and_the_forkserver(tmp_path: Path) -> None:
    script = write_script(tmp_path, source(START, "forkserver"))
    assert failure(tmp_path, str(script)) == (
        f"{WHERE} exited with code 1 before it was ready; if its output says that {script} could not be imported: "
        f"{GUARD}"
    )


def test_a_server_without_a_guard(tmp_path: Path) -> None:
    text = """
    import uvicorn
    from fastapi import FastAPI
    from fastapi_aqueduct import Aqueduct

    uvicorn.run(FastAPI(lifespan=Aqueduct(Flow(H(), name="ocr")).lifespan), port=0)
    """
    script = write_script(tmp_path, source(text))
    said = failure(tmp_path, str(script))
    assert said.endswith(f"cannot import class H from {script}: it starts flow ocr when it is imported; {GUARD}")


def test_a_script_that_ends_itself_when_it_is_imported(tmp_path: Path) -> None:
    text = """
    if __name__ == "__main__":
        Flow(H()).start()
    else:
        sys.exit(5)
    """
    script = write_script(tmp_path, source(text))
    assert failure(tmp_path, str(script)) == (
        f"{CANNOT} {script}: SystemExit: 5; each worker imports it once more: {GUARD}"
    )


def test_an_attribute_error_of_a_script_is_not_taken_for_a_missing_class(tmp_path: Path) -> None:
    text = """
    if __name__ == "__main__":
        Flow(H()).start()
    sys.nothing
    """
    write_script(tmp_path, source(text))
    assert failure(tmp_path, "-m", "main") == (
        f"{CANNOT} main: AttributeError: module 'sys' has no attribute 'nothing'; each worker imports it once more: "
        f"{GUARD}"
    )


def test_a_class_under_the_guard(tmp_path: Path) -> None:
    guarded = "\nif __name__ == '__main__':\n" + "\n".join(f"    {line}" for line in source(START).splitlines())
    script = write_script(tmp_path, guarded)
    assert failure(tmp_path, str(script)) == (
        f'{CANNOT} {script}: it has no H; define it at the top level, outside `if __name__ == "__main__":`'
    )


def test_a_command(tmp_path: Path) -> None:
    assert failure(tmp_path, "-c", source(START)) == f"{CANNOT} the main module: {TYPED}"


def test_a_program_from_stdin(tmp_path: Path) -> None:
    assert failure(tmp_path, "-", stdin=source(START)) == f"{CANNOT} the main module: {TYPED}"
    said = failure(tmp_path, stdin=source(START, "forkserver"))
    assert said.endswith(f"if its output says that the main module could not be imported: {TYPED}")


def test_the_interactive_interpreter(tmp_path: Path) -> None:
    typed = re.sub(r"(?m)^(?=\S)", "\n", source(START))  # an empty line ends a definition
    assert failure(tmp_path, "-i", "-c", "pass", stdin=f"{typed}\nexit(1)\n") == f"{CANNOT} the main module: {TYPED}"


def test_a_notebook(tmp_path: Path) -> None:
    """IPython leaves this mark; a notebook has no file."""
    mark = "import builtins\nbuiltins.__IPYTHON__ = True\n"
    assert failure(tmp_path, "-c", mark + source(START)) == (
        f"{CANNOT} the notebook: what a cell defines exists in the process of the notebook only; write it to a module "
        "beside the notebook, for example with `%%writefile pipeline.py`, and import it"
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_package_that_is_run(tmp_path: Path, method: str) -> None:
    (tmp_path / "service").mkdir()
    write_script(tmp_path / "service", source(START, method), "__main__.py")
    assert failure(tmp_path, "-m", "service") == (
        f"{CANNOT} service.__main__: other processes cannot import what `python -m` runs as a package; move the "
        "definition to another module of the package and import it"
    )


def test_a_test_in_pytests_importlib_mode(tmp_path: Path) -> None:
    text = """
    def test_flow():
        Flow(H()).start()
    """
    (tmp_path / "elsewhere").mkdir()
    script = write_script(tmp_path / "elsewhere", source(text), "test_it.py")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "--import-mode=importlib", "--tb=line", str(script)],
        cwd=tmp_path,
        env={**script_environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    said = re.sub(r"\(pid \d+\)", "(pid N)", done.stdout)
    assert (
        f"{CANNOT} elsewhere.test_it: ModuleNotFoundError: No module named 'elsewhere'; {script} was loaded by its "
        "path and not from sys.path, as pytest does with --import-mode=importlib: move the definition to a module that "
        "can be imported, or add its directory to sys.path (with pytest's option `pythonpath`)"
    ) in said


def test_a_module_that_fails_in_the_worker(tmp_path: Path) -> None:
    """The reason is what it raised, and its traceback is the cause."""
    write_script(tmp_path, source("\n    import os\n    if 'IN' in os.environ: import missing_model\n"), "pipeline.py")
    text = """
    import os
    import pipeline

    os.environ["IN"] = "a worker"
    if __name__ == "__main__":
        Flow(pipeline.H()).start()
    """
    script = write_script(tmp_path, source(text))
    assert failure(tmp_path, str(script)) == (
        f"{CANNOT} pipeline: ModuleNotFoundError: No module named 'missing_model'"
    )


def test_a_condition_that_cannot_be_imported(tmp_path: Path) -> None:
    text = """
    from fastapi_aqueduct import FlowStep
    from tests.handlers import Each

    if __name__ == "__main__":
        def wanted(task):
            return True
        Flow(FlowStep(Each(), wanted)).start()
    """
    script = write_script(tmp_path, source(text))
    said = failure(tmp_path, str(script))
    assert "the worker cannot import function wanted from" in said
    assert said.endswith('it has no wanted; define it at the top level, outside `if __name__ == "__main__":`')


def test_a_process_that_cannot_be_spawned(tmp_path: Path) -> None:
    text = """
    if __name__ == "__main__":
        sys.executable = "/no/such/python"
        Flow(H()).start()
    """
    script = write_script(tmp_path, source(text))
    assert failure(tmp_path, str(script)) == (
        "a worker of step1_H in flow flow could not be started: FileNotFoundError: [Errno 2] No such file or "
        "directory: '/no/such/python'"
    )
