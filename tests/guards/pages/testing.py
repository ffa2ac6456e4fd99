"""Runs the tests of the page that start no processes; `test_plugins` runs all, under each plugin."""

import os

import pytest

if __name__ == "__main__":
    # Plugins that other packages have installed would take most of the time.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    files = ["test_handler.py", "test_endpoint.py", "test_pipeline.py"]
    assert pytest.main(["-q", "-p", "anyio", "-p", "no:cacheprovider", *files]) == pytest.ExitCode.OK
