"""Functions that workers cannot run, and where they may be defined."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import Aqueduct, ConfigurationError, InvalidArgument, in_worker

from ..support import DEADLINE, run_script, script_environment, write_script
from .elsewhere import halve
from .functions import repeat, stars


def test_a_function_that_no_other_process_can_import() -> None:
    def inner() -> None: ...

    with pytest.raises(ConfigurationError, match="inner, a function inside another one.*top level of a module"):
        in_worker(inner)
    with pytest.raises(ConfigurationError, match="a lambda, which no other process can import"):
        in_worker(lambda: None)


@pytest.mark.parametrize("value", [3, int, stars, None])
def test_what_is_no_function(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="in_worker needs a function, got"):
        in_worker(nprocs=1)(value)


def test_options_that_cannot_work() -> None:
    with pytest.raises(InvalidArgument, match="in_worker has no option nproc or size"):
        in_worker(nproc=2, size=1)(halve)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="halve cannot run in workers as declared: .*nprocs >= 1, got 0"):
        in_worker(nprocs=0)(halve)
    with pytest.raises(ConfigurationError, match="halve cannot run .*queue_size must be at least 1"):
        in_worker(queue_size=0)(halve)
    with pytest.raises(InvalidArgument, match="load must be a function"):
        in_worker(load=3)(halve)  # type: ignore[call-overload]


def test_a_generator_function_has_no_batches() -> None:
    with pytest.raises(ConfigurationError, match="repeat has a `yield`, so it cannot have a batch_size"):
        in_worker(batch_size=2)(repeat.local)  # type: ignore[arg-type]


def test_an_application_takes_functions_and_flows() -> None:
    other = in_worker(name="other")(halve)
    aqueduct = Aqueduct(stars, other.flow)
    assert aqueduct.flows == (stars.flow, other.flow)
    with pytest.raises(ConfigurationError, match="each flow only once"):
        Aqueduct(stars, stars.flow)
    with pytest.raises(ConfigurationError, match="put @in_worker above halve"):
        Aqueduct(halve)  # type: ignore[arg-type]


def test_a_name_that_means_something_else(tmp_path: Path) -> None:
    source = """
        from fastapi_aqueduct import in_worker

        @in_worker
        def work() -> None: ...

        kept = work

        def work() -> None: ...

        if __name__ == "__main__":
            try:
                kept.flow.start()
            except ValueError as exc:
                print(exc)
    """
    assert "__main__.work is neither the function nor what in_worker made of it" in run_script(tmp_path, source)


SERVICE = """
    import asyncio
    from fastapi import FastAPI
    from fastapi_aqueduct import Aqueduct, in_worker
    from fastapi_aqueduct.testing import client

    @in_worker(load=lambda: 2)
    def times(factor: int, number: int) -> int:
        return factor * number

    app = FastAPI(lifespan=Aqueduct(times).lifespan)

    @app.get("/times")
    async def answer(number: int) -> int:
        return await times(number)

    async def main() -> None:
        async with client(app) as http:
            print((await http.get("/times?number=4")).json())

    if __name__ == "__main__":
        asyncio.run(main())
"""

SCRIPT = """
    from fastapi_aqueduct import in_worker

    @in_worker(load=lambda: 2)
    def times(factor: int, number: int) -> int:
        return factor * number

    times.flow.start()
"""


def test_a_script_with_a_guard(tmp_path: Path) -> None:
    """The application and the function share a file, and so do the function and its `load`."""
    assert run_script(tmp_path, SERVICE) == "8\n"


@pytest.mark.parametrize("is_piped", [False, True], ids=["without a guard", "piped"])
def test_a_script_that_workers_cannot_import(is_piped: bool, tmp_path: Path) -> None:
    path = write_script(tmp_path, SCRIPT)
    done = subprocess.run(
        [sys.executable, "-" if is_piped else "main.py"],
        cwd=tmp_path,
        env=script_environment(),
        input=path.read_text() if is_piped else None,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    error = done.stderr.splitlines()[-1]
    assert "StartError: a worker of times in flow times" in error
    assert "cannot import function times from" in error
    assert ("write it to a module and import it" if is_piped else 'under `if __name__ == "__main__":`') in error
