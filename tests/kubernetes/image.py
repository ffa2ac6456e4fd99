"""What the pods run: the application of the page in the documentation, with stand-ins for its models."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from ..support import ROOT

PAGE = ROOT / "docs" / "kubernetes.md"

MODELS = """
    import hashlib
    import time

    LOAD_TIME = 3.0


    def load_detector():
        time.sleep(LOAD_TIME)

        def detect(image):
            time.sleep(0.005)
            return [(0, len(image))]

        return detect


    def load_reader():
        time.sleep(LOAD_TIME)

        def read(pages):
            time.sleep(0.04 + 0.04 * len(pages))
            return [[hashlib.sha256(image[start:end]).hexdigest() for start, end in boxes] for image, boxes in pages]

        return read
"""
"""Models that a GPU would run: they take their time, and no processor."""

BROKEN_MODELS = """
    def load_detector():
        raise OSError("the weights are not there")

    load_reader = load_detector
"""


def modules() -> dict[str, str]:
    """Return the modules that the page shows."""
    blocks = re.findall(r"^```python\n# (\w+\.py)(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: f"#{text}" for name, text in blocks}


def build(directory: Path, models: str = MODELS) -> Path:
    """Write the application.

    Args:
        directory: Where; its name is that of the image.
        models: The module of the models.
    """
    directory.mkdir()
    for name, text in {**modules(), "models.py": textwrap.dedent(models)}.items():
        (directory / name).write_text(text)
    return directory
