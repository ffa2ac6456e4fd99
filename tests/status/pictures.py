"""The pictures of the status page in the documentation."""

from __future__ import annotations

import io
import time

from PIL import Image

from ..example.browser import Browser
from ..support import ROOT
from .watched import calling, watched

IMAGES = ROOT / "docs" / "status"
COLOURS = 250
"""Colours of a file; with all of them it is several times as large."""

MINUTE = 62.0
"""Seconds until the small graphs are full."""

IMAGE_SIZE = 100_000
"""Bytes of a picture that is sent."""

DARK = [{"name": "prefers-color-scheme", "value": "dark"}]


def draw() -> None:
    """Draw the page at work, and when not all is well: at a desk, on a phone, and in the dark."""
    IMAGES.mkdir(exist_ok=True)
    with watched(STATUS_NAME="thumbnails") as page:
        page.browser.command("/goog/cdp/execute", cmd="Emulation.setScrollbarsHidden", params={"hidden": True})
        page.open(1200, 700)
        page.http.post("/canary?share=0.2")
        with calling(lambda: page.http.post(f"/load?count=30&size={IMAGE_SIZE}"), 2):
            time.sleep(MINUTE)
            save(page.browser, "page", 1200, flows=1)
            page.browser.command("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": DARK})
            save(page.browser, "phone", 390, most=1150)
            with page.flag("broken"):
                page.kill("faces")
                page.kill("fragile")
                page.wait_for_state("fragile", "broken")
                save(page.browser, "states", 1200)


def save(browser: Browser, name: str, width: int, most: int = 10_000, flows: int = 2) -> None:
    """Save a picture of the page.

    Args:
        browser: Shows it.
        name: Name of the file.
        width: Pixels across.
        most: The most pixels down; below that the page is cut.
        flows: How many flows are shown.
    """
    browser.resize(width, 600)
    time.sleep(1.5)  # it is drawn once a second
    last = f"document.querySelectorAll('.flow')[{flows - 1}].getBoundingClientRect().bottom + scrollY"
    browser.resize(width, min(most, int(browser.run(f"return {last}")) + 16))
    browser.wait_for("document.body.dataset.connection === 'live'")
    taken = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    taken.quantize(COLOURS, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
