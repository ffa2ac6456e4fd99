"""Takes the picture of the report for the page "Tuning": ``python -m tests.tune.picture``."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ..example.browser import open_browser
from ..support import ROOT

PICTURE = ROOT / "docs" / "tuning.png"
WIDTH = 1000
FRAME = 150
"""Pixels of the window around the page, at most."""

COLOURS = 128
BUDGET = 60

COMMAND = [sys.executable, "-c", "from fastapi_aqueduct.cli.main import main; main()", "tune"]
TARGET = "tests.tune.flows:shown"


def main() -> None:
    """Tune a flow of two steps, and write the picture of the report."""
    with tempfile.TemporaryDirectory() as directory, open_browser() as browser:
        subprocess.run(
            [*COMMAND, TARGET, "--sample", "make_words", "--budget", str(BUDGET)],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        browser.open(Path(directory, "tune.html").as_uri())
        browser.resize(WIDTH, 1000)
        height = browser.run("return document.documentElement.scrollHeight")
        browser.resize(WIDTH, height + FRAME)
        taken = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        taken.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
