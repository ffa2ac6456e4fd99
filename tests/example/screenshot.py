"""Takes the picture of the example's page for the README: ``python -m tests.example.screenshot``."""

from __future__ import annotations

import io

from PIL import Image

from example_app.demo import APPLICATION, load_samples
from example_app.service import running_service

from ..support import ROOT
from .browser import open_browser

PICTURE = ROOT / "docs" / "example.png"
SIZE = 1280, 900
COLOURS = 200
"""Colours of the file; with all of them it is twice as large."""

FINISHED = "!document.getElementById('timing').hidden && document.getElementById('picture').complete"
AT_REST = "document.getAnimations().every((animation) => animation.playState === 'finished')"


def main() -> None:
    """Have a sample read twice, as the first reading is slower, and write the picture of the page."""
    (sample,) = [sample for sample in load_samples() if sample.path.name == "receipt.jpg"]
    with running_service(APPLICATION, 0) as service, open_browser() as browser:
        service.wait_until_ready()
        browser.resize(*SIZE)
        for _ in range(2):
            browser.open(f"{service.url}/")
            browser.choose_file("#file", sample.path)
            browser.wait_for(FINISHED)
            browser.wait_for(AT_REST)
        taken = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
        taken.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
