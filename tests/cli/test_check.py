"""``fastapi-aqueduct check --from-aqueduct``: what works differently in a project for the package aqueduct."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fastapi_aqueduct.cli.main import main

HEAD = "from aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep\n"

BITES = {
    "no main guard": (
        """
        import asyncio

        class Handler(BaseTaskHandler):
            def handle(self, *tasks): ...

        async def serve(): ...

        asyncio.run(serve())  # breaks: asyncio.run() runs when the module is imported, and workers import
        """
    ),
    "a start without a guard": (
        """
        class Task(BaseTask): ...

        flow = Flow()
        if True:
            flow.start()  # breaks: flow.start() starts workers when the module is imported, and workers
        """
    ),
    "a start where no worker imports it": (
        """
        from flows import get_flow

        flow = get_flow()
        flow.start()  # note: flow.start() starts workers when the module is imported, once in each process
        """
    ),
    "an integrator without a guard": (
        """
        from aqueduct.integrations.aiohttp import AppIntegrator

        class Task(BaseTask): ...

        AppIntegrator(app).add_flow(Flow())  # breaks: add_flow() starts workers when the module is imported
        """
    ),
    "a global that main sets": (
        """
        MODEL = None

        class Handler(BaseTaskHandler):
            def handle(self, *tasks):
                for task in tasks:
                    task.result = MODEL(task)

        if __name__ == "__main__":
            MODEL = load()  # breaks: MODEL is set by the main program and read by Handler
        """
    ),
    "a global that a function of main sets": (
        """
        SIZE = 0

        class Handler(BaseTaskHandler):
            def on_start(self):
                prepare()

            def handle(self, *tasks): ...

        def prepare():
            print(SIZE)

        def main():
            global SIZE
            SIZE = 3  # breaks: SIZE is set by the main program and read by Handler

        if __name__ == "__main__":
            main()
        """
    ),
    "a global of another module": (
        """
        import settings

        if __name__ == "__main__":
            settings.SIZE = 3  # note: settings.SIZE is set by the main program
        """
    ),
    "assignments into array fields": (
        """
        import numpy as np

        class Task(BaseTask):
            def __init__(self, image: np.ndarray, shared: np.ndarray, count: int, rest):
                super().__init__()
                self.image = image
                self.shared = shared
                self.count = count
                self.rest = rest
                self.found = {}
                self.share_value("shared")

        class Handler(BaseTaskHandler):
            def handle(self, *tasks: Task):
                tasks[0].image[:] = 0  # breaks: field image is changed in place, and it arrives read-only
                for task in tasks:
                    task.image /= 255  # breaks: field image is changed in place
                    image = task.image
                    image[0] = 1  # breaks: field image is changed in place
                    image += 1  # breaks: field image is changed in place
                    image.sort()  # breaks: field image is changed in place
                    np.add(image, 1, out=task.image)  # breaks: field image is changed in place
                    task.rest[0] = 1  # breaks: field rest is changed in place, and, if it is an array,
                    task.rest += 1  # note: field rest is changed in place, and, if it is an array,
                    task.shared[0] = 1
                    task.found["cat"] = 1
                    task.found[3] = 1
                    task.count += 1
                    self.seen[0] = 1
        """
    ),
    "fork": (
        """
        import multiprocessing as mp
        import os

        preload_app = True  # note: gunicorn forks its workers
        flow = Flow(mp_start_method="fork")  # breaks: mp_start_method="fork" is refused
        other = Flow(mp_start_method="spawn")
        if __name__ == "__main__":
            mp.set_start_method("fork")  # note: set_start_method("fork") has no effect on flows
            os.fork()  # note: a fork cannot use a flow that was started before it
        """
    ),
    "lambdas and local definitions": (
        """
        import threading

        class Handler(BaseTaskHandler):
            def __init__(self):
                self.lock = threading.Lock()  # breaks: self.lock of Handler is threading.Lock(), and a handler is
                self.scale = lambda x: x  # breaks: self.scale of Handler is a lambda
                self.size = 3

            def handle(self, *tasks): ...

        class Cats(Handler): ...

        def condition(task): ...

        def build():
            class Local(Cats): ...  # breaks: Local is defined in a function, and workers cannot import it

            def is_cat(task): ...

            return Flow(
                FlowStep(Handler(), lambda task: True),  # breaks: handle_condition is a lambda
                FlowStep(Cats(), handle_condition=is_cat),  # breaks: is_cat is defined in a function
                FlowStep(Local(), handle_condition=condition),
            )
        """
    ),
    "names that do not exist": (
        """
        from aqueduct.shm import SharedFieldsMixin  # breaks: SharedFieldsMixin does not exist here: BaseTask
        from aqueduct.sockets.flow import SocketFlow

        def export(task, metrics):
            print(task.metrics.handle_times)  # breaks: metrics.handle_times of a task does not exist here
            print(metrics.handle_times)
        """
    ),
    "results that are compared": (
        """
        async def call(flow, task):
            assert await flow.process(task) is True  # breaks: process() returns the task
            result = await flow.process(task)
            if result == True:  # breaks: process() returns the task
                return result
            assert await flow.process(task)
            assert await socket_flow.process([task]) is True
        """
    ),
    "a file that is no Python": (
        """
        print "hello"  # breaks: the file cannot be read
        """
    ),
    "a project that needs nothing": (
        """
        class Task(BaseTask):
            def __init__(self, number):
                super().__init__()
                self.number = number
                self.sum = None

        class SumHandler(BaseTaskHandler):
            def __init__(self):
                self._model = None

            def on_start(self):
                self._model = sum

            def handle(self, *tasks: Task):
                for task in tasks:
                    task.sum = self._model(range(task.number))

        def main():
            flow = Flow(FlowStep(SumHandler()))
            flow.start()

        if __name__ == "__main__":
            main()
        """
    ),
}


Run = Callable[[Path], tuple[object, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command and return its status and what it prints."""

    def run(path: Path) -> tuple[object, str]:
        with pytest.raises(SystemExit) as caught:
            main(["check", "--from-aqueduct", str(path)])
        found = capsys.readouterr()
        return caught.value.code, found.out + found.err

    return run


def test_it_lists_what_bites_with_file_and_line(tmp_path: Path, run: Run) -> None:
    for name, source in BITES.items():
        path = tmp_path / "main.py"
        text = HEAD + textwrap.dedent(source)
        path.write_text(text)
        expected = []
        for number, line in enumerate(text.splitlines(), 1):
            if found := re.search(r"# (breaks|note): (.*)$", line):
                expected.append((f"{path}:{number}: {found[1]}: ", found[2]))
        status, output = run(tmp_path)
        lines = output.splitlines()[:-1]
        assert len(lines) == len(expected), (name, output)
        for line, (place, what) in zip(lines, expected, strict=True):
            assert line.startswith(place + what), name
        assert status == any(": breaks: " in place for place, _ in expected), name


def test_it_reads_a_directory_without_environments_and_imports_nothing(tmp_path: Path, run: Run) -> None:
    bad = HEAD + "raise SystemExit('imported')\nflow = Flow(mp_start_method='fork')\n"
    for place in ("app", "venv/lib", "app/__pycache__", ".tox", "node_modules"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "module.py").write_text(bad)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "app" / "text.txt").write_text("no Python")
    before = set(sys.modules)
    status, output = run(tmp_path)
    assert (status, output.splitlines()[-1]) == (1, "1 files read, 1 findings, 1 of them break")
    assert output.startswith(f"{tmp_path}/app/module.py:3: breaks: ")
    assert "module" not in set(sys.modules) - before


def test_a_path_without_python_is_an_error_of_the_arguments(tmp_path: Path, run: Run) -> None:
    assert run(tmp_path) == (2, f"fastapi-aqueduct: there is no Python file at {tmp_path}\n")
    assert run(tmp_path / "missing")[0] == 2
