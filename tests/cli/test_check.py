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
    "a main function that is called without a guard": (
        """
        import asyncio as aio
        from uvicorn import run as serve

        class Handler(BaseTaskHandler):
            def handle(self, *tasks): ...

        async def work():
            pipeline = Flow(Handler())
            pipeline.start()

        def main():
            aio.run(work())

        main()  # breaks: main() calls aio.run() when the module is imported, and workers import it for Handler
        serve("main:app")  # breaks: serve() runs when the module is imported
        if prepare(aio.run(work())):  # breaks: aio.run() runs when the module is imported
            pass
        """
    ),
    "the branches of guards": (
        """
        from aqueduct.integrations.aiohttp import AppIntegrator

        class Task(BaseTask): ...

        if "__main__" == __name__ and True:
            flow.start()
        elif __name__ != "__main__":
            flow.start()  # breaks: flow.start() starts workers when the module is imported
        else:
            flow.start()
        AppIntegrator(app).add_flow(flow, with_start=False)
        start = lambda: flow.start()
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
    "names that a handler has itself, and those that only main imports": (
        """
        import numpy as np

        class Handler(BaseTaskHandler):
            def handle(self, *tasks):
                for task in tasks:
                    result = [number for number in task.numbers]
                    task.result = predict(result, np.ones(3))

        if __name__ == "__main__":
            import numpy as np
            from models import predict  # breaks: predict is set by the main program and read by Handler

            tasks = [Task(number) for number in range(3)]
            for task in tasks:
                result = run(task)
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
    "copies, and what is no field of a task": (
        """
        import cv2
        import numpy as np
        from aqueduct import BaseTask as Base

        class Task(Base):
            def __init__(self, image: "np.ndarray", level=-1):
                self.image = image
                self.level = level

        class Handler(BaseTaskHandler):
            def handle(self, *tasks: Task):
                for task in tasks:
                    cv2.circle(task.image, (1, 1), 3, 0)  # breaks: field image is changed in place
                    np.copyto(task.image, 0)  # breaks: field image is changed in place
                    image = task.image
                    image = image.copy()
                    image[0] = 1
                    task.frame.loc[0] = 1
                    task.level += 1  # note: field level is changed in place, and, if it is an array,
                    task.image = task.image.copy()
                    task.image[0] = 1
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
    "forks that have a shared pipeline": (
        """
        from main import build_flow, socket_flow
        from os import fork

        preload_app = True
        reload = False

        def on_starting(server):
            socket_flow.preload(build_flow())
            fork()  # note: a fork cannot use a flow that was started before it
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
                self.file: object = open("model")  # breaks: self.file of Handler is open('model')
                self.image = Image.open("model.png")

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
    "other names of the same things": (
        """
        import aqueduct
        from aqueduct import BaseTaskHandler as Base, FlowStep as Step

        always = lambda task: True

        class First(Base):
            def handle(self, *tasks): ...

        class Second(aqueduct.BaseTaskHandler):
            def handle(self, *tasks): ...

        flow = Flow(
            Step(First(), always),  # breaks: handle_condition is a lambda
            aqueduct.FlowStep(Second(), lambda task: True),  # breaks: handle_condition is a lambda
        )
        """
    ),
    "names that do not exist": (
        """
        import aqueduct.worker
        from aqueduct.shm import SharedFieldsMixin  # breaks: SharedFieldsMixin does not exist here: BaseTask
        from aqueduct.sockets.flow import SocketFlow

        def export(task, metrics):
            print(task.metrics.handle_times)  # breaks: metrics.handle_times of a task does not exist here
            print(metrics.handle_times)
            aqueduct.worker.Worker(task)  # breaks: Worker does not exist here: a flow starts its workers itself

        class Sizes(Collector):
            async def collect_qsize(self, queues_info): ...  # breaks: collect_qsize does not exist here: add_queue
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


def test_it_says_which_files_it_cannot_read(tmp_path: Path, run: Run) -> None:
    (tmp_path / "escapes.py").write_text(HEAD + 'print("\\d")\n')  # a warning of Python's, of which nothing is said
    (tmp_path / "latin.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    (tmp_path / "null.py").write_bytes(b"\0")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "deep.py").write_text("-" * 100_000 + "1\n")
    (tmp_path / "other.ipynb").write_text("{}")
    (tmp_path / "try.ipynb").write_text('{"cells": [{"source": ["from aqueduct import Flow"]}]}')
    status, output = run(tmp_path)
    assert status == 1
    *lines, end = [line.removeprefix(f"{tmp_path}/") for line in output.splitlines()]
    assert end.startswith("2 files read, 4 findings")
    for line, start in zip(lines, ("deep.py:", "gone.py:1: note: ", "null.py:1: ", "try.ipynb:1: note: "), strict=True):
        assert line.startswith(start)
    assert "which workers can import" in lines[-1]


def test_a_path_without_python_is_an_error_of_the_arguments(tmp_path: Path, run: Run) -> None:
    assert run(tmp_path) == (2, f"fastapi-aqueduct: there is no Python file at {tmp_path}\n")
    assert run(tmp_path / "missing")[0] == 2
