"""The tests that the page on testing shows run under each plugin that users have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, script_environment
from .test_documentation import write_modules

PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]

RUNS = {
    "xdist": [*PYTEST, "-p", "anyio", "-p", "xdist", "-n", "2"]
    + ["test_handler.py", "test_endpoint.py", "test_pipeline.py", "test_service.py"],
    # pytest-asyncio warns where the option is not set.
    "pytest-asyncio": [*PYTEST, "-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]
    + ["test_with_pytest_asyncio.py"],
    "unittest": ["-m", "unittest", "test_with_unittest"],
}


@pytest.mark.long
@pytest.mark.parametrize("plugin", RUNS)
def test_the_tests_of_users_run_under(plugin: str, tmp_path: Path) -> None:
    write_modules("docs/testing.md", tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", *RUNS[plugin]],
        cwd=tmp_path,
        # Plugins that other packages have installed would take most of the time.
        env={**script_environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
