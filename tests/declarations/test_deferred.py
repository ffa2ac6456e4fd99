"""The declarations of these tests as most modules have them from Python 3.14 on: without the import from __future__."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..support import DEADLINE, ROOT, script_environment

IMPORT = "from __future__ import annotations\n"
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
MODULES = [f"tests/declarations/test_{name}.py" for name in ("application", "marks", "tasks", "uploads")]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they are written")
@pytest.mark.timeout(240)
def test_annotations_that_are_evaluated_when_they_are_asked_for(tmp_path: Path) -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace(IMPORT, ""))
    done = subprocess.run(
        [sys.executable, *PYTEST, "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, *MODULES],
        cwd=tmp_path,
        env={**script_environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=5 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
