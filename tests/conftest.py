"""Fixtures for every test: the event loop, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import pytest
import uvloop
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from fastapi_aqueduct.engine import started
from fastapi_aqueduct.engine.lifecycle import Lifecycle

from .support import DEADLINE, Traces, traces, wait_until

TOGETHER = ("chat", "edge", "example", "reliability", "status")
"""Folders whose tests run one after the other, in one process: they share servers, or kill and look at the time."""


FIRST = (
    *("reliability", "example", "tests/guards/test_documentation.py", "tests/asgi/test_drain.py"),
    *("tests/asgi/test_schema.py", "tests/recording/test_replay.py", "tests/recording/test_documentation.py"),
)
"""Folders and modules that take longest: begun late, one of them would run alone at the end."""


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Runs the tests of a folder in `TOGETHER` in one process, else those of a module; those with most tests first.

    Not ``--dist loadgroup``: with pytest 9.2 that ignores the groups (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:  # the documented way to group tests otherwise
        path = nodeid.partition("::")[0]
        folder = Path(path).parts[1]
        return folder if folder in TOGETHER else path

    def _assign_work_unit(self, node: WorkerController) -> None:
        first = next((scope for scope in FIRST if scope in self.workqueue), None)
        if first is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    return FolderScheduling(config, log)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def kept_for_good() -> None:
    """Begin as in a terminal, and make what libraries make once and keep, so that it does not count as left behind."""
    # A shell makes its background processes ignore SIGINT, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before the first flow does it: the first start decides. A flow preloads only the first of these. The others are
    # what modules with handlers import as well, and take most of the start of a worker; the last one loads all that a
    # model of pydantic needs.
    preloaded = ["fastapi_aqueduct.engine.child.main", "fastapi_aqueduct.flow", "numpy", "pydantic.root_model"]
    multiprocessing.set_forkserver_preload(preloaded)
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    uvloop.new_event_loop().close()  # its first loop makes a pipe for signals


@pytest.fixture(scope="module", autouse=True)
def frozen_heap(kept_for_good: None) -> None:
    """Leave what is there when a module begins out of the collections of its tests, of which each test has several.

    The packages that other modules have imported would be most of what they look at.
    """
    gc.collect()
    gc.freeze()


FAILED = pytest.StashKey[bool]()
"""Whether a test has failed, before its fixtures end."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def leaves_nothing_behind(kept_for_good: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a descriptor or a file in shared memory behind."""
    with nothing_left_behind(lambda: request.node.stash.get(FAILED, False)):
        yield


@contextmanager
def nothing_left_behind(has_failed: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Fail when a process, a descriptor or a file in shared memory is left at the end of the context.

    Args:
        has_failed: Tells whether the test has failed. Its exception keeps its frames then, and with them memory. To
            wait for that would let the time limit hide why it has failed.
    """
    if sys.platform != "linux":
        yield
        return
    gc.collect()
    before = traces()
    yield
    if has_failed():
        stop_started_flows()  # else tests that follow fail as well
        return
    left = Traces(set(), set(), set())

    def is_clean() -> bool:
        nonlocal left
        gc.collect()
        left = traces() - before
        return not any(left)

    # A killed process is there until it is reaped, and its reaper is another process under forkserver.
    if not wait_until(is_clean, DEADLINE):
        stop_started_flows()  # else tests that follow fail as well
        pytest.fail(f"left behind: {left}")


def stop_started_flows() -> None:
    """Stop the flows that a failed test has left."""
    for flow in list(started._started):
        assert isinstance(flow, Lifecycle)
        asyncio.run(flow.stop(graceful=False))
