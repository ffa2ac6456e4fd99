"""The examples, with all the time that ``tune`` wants: on a machine that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support import ROOT, script_environment, write_script

pytestmark = pytest.mark.long

ERROR = 0.2
"""By how much the prediction may be wrong."""

QUIET = 0.2
"""Cores of other processes with which a figure means anything."""

OCR = """
    from pathlib import Path

    import example_app
    from example_app.pipeline import OcrTask, flow

    SAMPLES = Path(example_app.__file__).parent / "samples"

    def make_task():
        for name in ("receipt.jpg", "letter.jpg", "sign.jpg", "phone.jpg"):
            yield OcrTask((SAMPLES / name).read_bytes())
"""

CHAT = """
    from example_app.chat.model import Message, Sampling
    from example_app.chat.pipeline import Question, build_flow
    from example_app.chat.settings import Settings

    flow = build_flow(Settings(model="alice-trigram", step_time=0.01))

    def make_task():
        return Question([Message("user", "Tell me about the White Rabbit.")], Sampling(max_tokens=60, seed=1))
"""


@pytest.mark.parametrize(("program", "budget"), [(OCR, 300), (CHAT, 120)], ids=["ocr", "chat"])
def test_the_prediction_is_right_and_the_settings_are_as_fast_as_those_of_the_example(
    program: str, budget: int, tmp_path: Path
) -> None:
    write_script(tmp_path, program)
    command = [sys.executable, "-c", "from fastapi_aqueduct.cli.main import main; main()", "tune", "main:flow"]
    ended = subprocess.run(
        [*command, "--sample", "make_task", "--budget", str(budget), "--json"],
        cwd=tmp_path,
        env={**script_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * budget,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    before, after = found["before"], found["after"]
    if after["measured"]["foreign_cores"] > QUIET:
        pytest.skip("other processes used the machine")
    assert abs(after["rate_error"]) < ERROR
    assert abs(after["time_error"]) < ERROR
    assert abs(after["memory_error"]) < ERROR
    if before["measured"]["foreign_cores"] > QUIET:
        pytest.skip("other processes used the machine while the example had its own settings")
    assert found["keeps_own_settings"] or after["measured"]["rate"] >= 0.95 * before["measured"]["rate"]
