"""Which processes are the second one of a server, and which only have the same parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, run_script, script_environment, write_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names without files")

CHILD = """
    import sys

    from fastapi_aqueduct.engine.shared.second_process import is_second_process

    def ask(name: str, answers: object) -> None:
        # Twice: a process may have several applications.
        answers.send((is_second_process(name), is_second_process(name)))
        answers.recv()  # it lives on meanwhile
"""

SUPERVISOR = """
    import multiprocessing, os, subprocess, sys
    from child import ask

    def supervise(how: str, names: list[str]) -> list[bool]:
        pipes = [multiprocessing.Pipe() for _ in names]
        children = []
        answers = []
        for name, (ours, theirs) in zip(names, pipes):
            if how == "fork":
                if not (pid := os.fork()):
                    ask(name, theirs)
                    os._exit(0)
                children.append(pid)
            else:
                child = multiprocessing.get_context("spawn").Process(target=ask, args=(name, theirs))
                child.start()
                children.append(child)
            answers.append(ours.recv())
        for ours, _ in pipes:
            ours.send(None)
        for child in children:
            os.waitpid(child, 0) if how == "fork" else child.join()
        assert not any(again for first, again in answers if not first)
        return [first for first, again in answers]

    if __name__ == "__main__":
        print(*supervise(sys.argv[1], sys.argv[2:]), flush=True)
"""


@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_of_the_processes_of_a_server_one_is_the_second(how: str, tmp_path: Path) -> None:
    """As under uvicorn and under gunicorn. Another application of the same parent is none of them."""
    write_script(tmp_path, CHILD, "child.py")
    said = run_script(tmp_path, SUPERVISOR, "main.py", how, "ocr", "tts", "ocr", "ocr", "ocr")
    assert said.split() == ["False", "False", "True", "False", "False"]


def test_programs_of_one_shell_are_not_one_server(tmp_path: Path) -> None:
    """Nor are those of a process manager or a test runner."""
    write_script(tmp_path, CHILD, "child.py")
    ask = "import child; print(child.is_second_process('ocr'), flush=True); input()"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", ask],
            cwd=tmp_path,
            env=script_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in programs:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
    for process in programs:
        process.communicate("\n", timeout=DEADLINE)
