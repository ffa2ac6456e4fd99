"""Runs the contract with processes, with threads, and with a pipeline that the flow reaches over a connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support import WORKERS

SHORT = ("test_batches", "test_cancellation", "test_fair_share", "test_values")
LONG = (
    *("test_async_handlers", "test_coalescing", "test_errors", "test_groups", "test_scheduling", "test_shared_memory"),
    "test_streams",
)
"""Modules with tests of what a flow promises with any kind of workers, except tests with the marker `processes`. With
threads those in `LONG` run only in the long tests."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.definition.path.stem
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if module in SHORT + LONG and "anyio_backend" in metafunc.fixturenames and "processes" not in marks:
        threads = pytest.param("threads", marks=[pytest.mark.long] * (module in LONG))
        shared = [] if "own" in marks else [pytest.param("shared", marks=[pytest.mark.long] * (module in LONG))]
        metafunc.parametrize("workers", ["processes", threads, *shared], indirect=True)


@pytest.fixture(autouse=True)
def workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set what `running` starts."""
    kind = getattr(request, "param", "processes")
    WORKERS.are_threads, WORKERS.have_template = kind == "threads", kind == "template"
    WORKERS.are_shared = kind == "shared"
    yield
    WORKERS.are_threads = WORKERS.have_template = WORKERS.are_shared = False
