"""The example's page in a real browser: what a person does and sees."""

import base64
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from example_app.demo import Sample, load_samples
from example_app.service import Service

from ..support import DEADLINE, wait_until
from .browser import Browser, open_browser
from .conftest import count_tasks

SAMPLES = {sample.path.name: sample for sample in load_samples()}
SAMPLES_SHOWN = f"document.querySelectorAll('#samples button').length === {len(SAMPLES)}"
FINISHED = "!document.getElementById('timing').hidden && document.getElementById('picture').complete"
FAILED = "document.getElementById('status').className === 'failed'"
IDLE = "document.getElementById('result').ariaBusy === 'false'"
LINES_SHOWN = "document.querySelectorAll('#lines li').length"
STATUS = "return document.getElementById('status').textContent"

DROP = """
    const [name, bytes] = arguments;
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type: 'image/png' }));
    const target = document.getElementById('drop');
    for (const kind of ['dragover', 'drop']) {
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }
"""


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Not asked in this module: a browser starts and ends processes as it likes; the last test takes all away."""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, service: Service) -> Browser:
    """The page, freshly loaded."""
    window.resize(1280, 1000)
    window.open(f"{service.url}/")
    window.wait_for(SAMPLES_SHOWN)
    return window


def listed(browser: Browser) -> str:
    return texts(browser, "#lines li span")


def drawn(browser: Browser) -> str:
    return texts(browser, "#boxes text")


def texts(browser: Browser, selector: str) -> str:
    script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent).join(' ')"
    found: str = browser.run(script, selector)
    return found


def is_displayed(browser: Browser, selector: str) -> bool:
    found: bool = browser.run("return document.querySelector(arguments[0]).checkVisibility()", selector)
    return found


def workers(service: Service, step: str) -> list[int]:
    """Return the processes of a step."""
    children = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").endswith(step.encode())]


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Suspend a process in this context."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def check_boxes(browser: Browser, sample: Sample) -> None:
    """Every line has a box, which lies on the picture."""
    assert drawn(browser).split() == listed(browser).split() == sample.words
    inside = browser.run("""
        const frame = document.getElementById('picture').getBoundingClientRect();
        return [...document.querySelectorAll('#boxes polygon')].map((polygon) => {
            const box = polygon.getBoundingClientRect();
            return box.width > 5 && box.height > 5 && box.left > frame.left - 3 && box.right < frame.right + 3
                && box.top > frame.top - 3 && box.bottom < frame.bottom + 3;
        });
    """)
    assert inside and all(inside)


def test_a_chosen_picture_shows_its_boxes_and_text(browser: Browser) -> None:
    browser.choose_file("#file", SAMPLES["receipt.jpg"].path)
    browser.wait_for(FINISHED)
    check_boxes(browser, SAMPLES["receipt.jpg"])
    scores = browser.run("return [...document.querySelectorAll('#lines data')].map((n) => parseInt(n.textContent))")
    assert len(scores) == 22 and min(scores) > 50
    assert browser.run(STATUS) == "receipt.jpg: 22 lines, 1200 × 1600 pixels."


def test_lines_appear_while_others_are_read_until_that_is_cancelled(
    browser: Browser, service: Service, client: httpx.Client, tmp_path: Path, long_page: bytes
) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(long_page)
    cancelled = count_tasks(client, "cancelled")
    (worker,) = workers(service, "Recognise")
    browser.choose_file("#file", page)
    browser.wait_for(LINES_SHOWN)
    with suspended(worker):
        shown: dict[str, Any] = browser.run("""
            const [progress, text] = ['progress', 'progress-text'].map((id) => document.getElementById(id));
            const count = (selector) => document.querySelectorAll(selector).length;
            return { read: progress.value, of: progress.max, text: text.textContent, lines: count('#lines li'),
                boxes: count('#boxes polygon'), busy: document.getElementById('result').ariaBusy };
        """)
        read = shown["read"]
        assert 0 < read < 90
        numbers = {"read": read, "of": 90, "text": f"{read} of 90", "lines": read, "boxes": read}
        assert shown == {**numbers, "busy": "true"}
        assert not is_displayed(browser, "#timing")
        browser.click("#cancel")
        browser.wait_for(IDLE)
        assert re.search(r"cancelled after \d+ of 90 lines", browser.run(STATUS))
        assert not is_displayed(browser, "#working")
        assert browser.run("return document.activeElement.id") == "file"  # where the next picture is chosen
        assert wait_until(lambda: count_tasks(client, "cancelled") == cancelled + 1, 10)
    browser.click("#samples li:nth-child(7) button")
    browser.wait_for(FINISHED)
    check_boxes(browser, SAMPLES["tiny.png"])


def test_a_reading_can_be_cancelled_before_the_first_line(
    browser: Browser, service: Service, tmp_path: Path, long_page: bytes
) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(long_page)
    (worker,) = workers(service, "Recognise")
    with suspended(worker):
        browser.choose_file("#file", page)
        browser.wait_for("document.getElementById('working').checkVisibility()")
        browser.click("#cancel")
        browser.wait_for(IDLE)
    assert browser.run(STATUS) == "page.png: cancelled."
    assert not is_displayed(browser, "#result")


@pytest.mark.timeout(240)  # a new worker loads its models
def test_a_cut_stream_and_a_busy_service_are_told_and_can_be_tried_again(
    browser: Browser, service: Service, tmp_path: Path, long_page: bytes
) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(long_page)
    (worker,) = workers(service, "Recognise")
    browser.choose_file("#file", page)
    browser.wait_for(LINES_SHOWN)
    os.kill(worker, signal.SIGKILL)
    browser.wait_for(FAILED)
    assert "The connection was lost before all lines were read" in browser.run(STATUS)
    assert browser.run(f"return {LINES_SHOWN}") > 0  # these are right

    assert wait_until(lambda: workers(service, "Recognise") not in ([], [worker]), DEADLINE)
    (worker,) = workers(service, "Recognise")
    with suspended(worker):
        browser.click("#again")
        browser.wait_for(f"{FAILED} && !{LINES_SHOWN}")
        assert "The service is busy" in browser.run(STATUS)
        text, disabled = browser.run("const b = document.getElementById('again'); return [b.textContent, b.disabled]")
        assert re.fullmatch(r"Try again in \d+ s", text) and disabled
    service.wait_until_ready()
    browser.wait_for("document.getElementById('again').textContent === 'Try again'")
    browser.click("#again")
    browser.wait_for(LINES_SHOWN)
    browser.click("#cancel")


def test_a_dropped_picture_is_read(browser: Browser) -> None:
    sample = SAMPLES["tiny.png"]
    browser.run(DROP, sample.path.name, base64.b64encode(sample.path.read_bytes()).decode())
    browser.wait_for(FINISHED)
    check_boxes(browser, sample)


def test_a_sample_is_read_with_one_click(browser: Browser) -> None:
    browser.click("#samples li:nth-child(3) button")
    browser.wait_for(FINISHED)
    check_boxes(browser, SAMPLES["sign.jpg"])


def test_boxes_fit_a_picture_that_the_camera_stored_on_its_side(browser: Browser) -> None:
    browser.choose_file("#file", SAMPLES["phone.jpg"].path)
    browser.wait_for(FINISHED)
    check_boxes(browser, SAMPLES["phone.jpg"])
    shape = browser.run("const p = document.getElementById('picture'); return [p.naturalWidth, p.naturalHeight]")
    assert shape == [1000, 1200]


def test_the_text_runs_along_the_picture_where_that_lies_on_its_side(browser: Browser) -> None:
    browser.choose_file("#file", SAMPLES["rotated.jpg"].path)
    browser.wait_for(FINISHED)
    check_boxes(browser, SAMPLES["rotated.jpg"])
    upright = browser.run("""
        return [...document.querySelectorAll('#boxes text')].map((text) => {
            const box = text.getBoundingClientRect();
            return box.height > box.width;
        });
    """)
    assert all(upright)


def test_the_text_can_be_lifted_off_the_picture(browser: Browser) -> None:
    browser.click("#samples li:nth-child(7) button")
    browser.wait_for(FINISHED)
    opacity = "return getComputedStyle(document.querySelector('#boxes text')).opacity"
    assert browser.run(opacity) == "1"
    browser.click("#overlay")
    assert browser.run(opacity) == "0"


def test_the_time_of_each_step_is_shown(browser: Browser) -> None:
    browser.click("#samples li:nth-child(7) button")
    browser.wait_for(FINISHED)
    names = browser.run("return [...document.querySelectorAll('#times th')].map((n) => n.textContent)")
    assert names == ["Decode", "Detect", "Recognise", "Sending and answering"]
    widths = browser.run("return [...document.querySelectorAll('#timeline i')].map((n) => n.offsetWidth)")
    frame = browser.run("return document.getElementById('timeline').offsetWidth")
    assert frame * 0.9 < sum(widths) <= frame


def test_what_is_no_picture_is_told_in_words(browser: Browser, tmp_path: Path) -> None:
    notes = tmp_path / "notes.png"
    notes.write_text("just some text")
    browser.choose_file("#file", notes)
    browser.wait_for(FAILED)
    assert "Not a picture" in browser.run(STATUS)
    assert browser.run("return document.getElementById('result').hidden")
    assert not is_displayed(browser, "#again")  # it would be refused again


def test_a_picture_without_text_says_so(browser: Browser, tmp_path: Path, blank_picture: bytes) -> None:
    blank = tmp_path / "blank.png"
    blank.write_bytes(blank_picture)
    browser.choose_file("#file", blank)
    browser.wait_for(FINISHED)
    assert "No text" in browser.run("return document.getElementById('lines').textContent")


def test_a_picture_that_the_browser_cannot_show_is_read_too(browser: Browser, tmp_path: Path) -> None:
    sample = SAMPLES["tiny.png"]
    with Image.open(sample.path) as image:
        image.convert("RGB").save(tmp_path / "tiny.tiff")
    browser.choose_file("#file", tmp_path / "tiny.tiff")
    browser.wait_for(FINISHED)
    assert listed(browser).split() == sample.words
    assert is_displayed(browser, "#unseen") and not is_displayed(browser, "#stage")


def test_nothing_sticks_out_on_any_screen(browser: Browser) -> None:
    browser.click("#samples li:nth-child(1) button")
    for state in (LINES_SHOWN, FINISHED):
        browser.wait_for(state)
        for width in (360, 820, 1600):
            browser.resize(width, 800)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run("return document.getElementById('picture').getBoundingClientRect().width") > 150


def test_everything_comes_from_the_service_and_without_complaint(browser: Browser, service: Service) -> None:
    browser.click("#samples li:nth-child(7) button")
    browser.wait_for(FINISHED)
    sources = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert sources and all(source.startswith((service.url, f"blob:{service.url}")) for source in sources)
    # A refused picture and a cut stream are errors to the browser too, and this window has seen some.
    complaints = [entry["message"] for entry in browser.command("/se/log", type="browser")]
    assert [complaint for complaint in complaints if f"{service.url}/ocr/stream - " not in complaint] == []


def test_fields_and_pictures_have_names(browser: Browser) -> None:
    nameless = browser.run("""
        return [...document.querySelectorAll('button, input, a')]
            .filter((n) => !(n.textContent.trim() || n.labels?.length || n.ariaLabel)).map((n) => n.outerHTML);
    """)
    assert nameless == []
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return [...document.images].every((image) => image.hasAttribute('alt'))")
