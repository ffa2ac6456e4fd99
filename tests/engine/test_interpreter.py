"""The interpreter of a worker is like the one of the server, also where that is the application's own executable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, ROOT, run_script, script_environment, write_script

OPTIONS = f"""
    import asyncio
    import sys
    sys.path.insert(0, {str(ROOT)!r})  # isolated interpreters take it neither from a variable nor from the directory
    from fastapi_aqueduct import Flow
    from tests.handlers import Each, Job, describe_interpreter

    async def main():
        async with Flow(Each(describe_interpreter)) as flow:
            theirs = (await flow.process(Job(), 20)).interpreter
        ours = (str(sys.flags), sys.warnoptions, sys._xoptions)
        print("same" if theirs == ours else (theirs, ours))

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize(
    "options", [[], ["-O", "-s", "-b"], ["-E", "-bb", "-B"], ["-I", "-OO"], ["-P", "-q", "-X", "dev", "-X", "utf8=0"]]
)
def test_options_are_handed_on(tmp_path: Path, options: list[str]) -> None:
    assert run_script(tmp_path, OPTIONS, *options, "main.py") == "same\n"


FROZEN = """
    import asyncio
    import os
    import sys

    # As the loader of a frozen application does; this file is the application.
    sys.frozen = True
    sys.executable = os.path.abspath("application")

    from fastapi_aqueduct import BaseTaskHandler, ConfigurationError, Flow, freeze_support
    from tests.handlers import Each, Job, add_one

    class Double(BaseTaskHandler):
        def handle(self, *tasks):
            for task in tasks:
                task.number *= 2
                task.pid = os.getpid()
                task.arguments = sys.argv[1:]

    async def main():
        async with Flow(Each(add_one), Double()) as flow:
            task = await flow.process(Job(number=20), 20)
            print(task.number, task.pid != os.getpid(), *task.arguments, flush=True)

    if __name__ == "__main__":
        {support}
        print("the application begins", flush=True)
        try:
            asyncio.run(main())
        except ConfigurationError as exc:
            print(exc)
"""


def run_frozen(directory: Path, support: str) -> list[str]:
    """Run the application as an executable of its own, and return what it and its workers print."""
    write_script(directory, FROZEN.format(support=support))
    application = directory / "application"
    application.write_text(f'#!/bin/sh\nexec {sys.executable} main.py "$@"\n')
    application.chmod(0o755)
    done = subprocess.run(
        [application, "an argument"],
        cwd=directory,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_frozen_application_is_its_own_worker(tmp_path: Path) -> None:
    assert run_frozen(tmp_path, "freeze_support()") == ["the application begins", "42 True an argument"]


def test_a_frozen_application_that_would_start_itself_without_end_is_refused(tmp_path: Path) -> None:
    begins, refusal = run_frozen(tmp_path, "pass")
    assert begins == "the application begins"
    assert str(tmp_path / "application") in refusal
    assert "call fastapi_aqueduct.freeze_support() first under `if __name__" in refusal
