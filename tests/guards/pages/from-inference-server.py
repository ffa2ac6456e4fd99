"""Installs the plug-in of the page as pip does, and runs its tests."""

import os
from pathlib import Path

import pytest

if __name__ == "__main__":
    metadata = Path("tides-1.0.dist-info")
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tides\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[inference_server]\ntides = tides\n")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert pytest.main(["-q", "-p", "no:cacheprovider", "test_tides.py"]) == pytest.ExitCode.OK
