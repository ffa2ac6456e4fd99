"""The page of the chat in a real browser: what a person does and sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from example_app.service import Service

from ..example.browser import Browser, open_browser
from .questions import ANSWERS, MODEL, QUEUE_SIZE, Tally, in_flight, long_answers, was_cancelled

IS_READY = f"document.getElementById('model').textContent === '{MODEL}'"
ENTER = "\ue007"

ANSWER = "[...document.querySelectorAll('.assistant .text')].at(-1)?.textContent"
NOTE = "[...document.querySelectorAll('.assistant .note')].at(-1)?.textContent"
BOX = "document.getElementById('scroll')"
OVERFLOW = f"({BOX}.scrollHeight - {BOX}.clientHeight)"
BELOW = f"({OVERFLOW} - {BOX}.scrollTop)"
BUSY = "document.querySelector('[aria-busy=true]')"


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Not asked in this module: a browser starts and ends processes as it likes."""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, service: Service) -> Browser:
    """The page, freshly loaded."""
    window.resize(1280, 900)
    window.open(f"{service.url}/")
    window.wait_for(IS_READY)
    return window


def write(browser: Browser, text: str) -> None:
    browser.command(f"/element/{browser.find('#text')}/value", text=text)


def is_shown(browser: Browser, selector: str) -> bool:
    return bool(browser.run("return document.querySelector(arguments[0]).checkVisibility()", selector))


def test_an_answer_grows_on_the_page(browser: Browser) -> None:
    browser.click("#ideas li:first-child button")
    started = browser.wait_for(f"{BUSY} && {ANSWER}")
    assert is_shown(browser, "#stop") and not is_shown(browser, "#send") and not is_shown(browser, "#welcome")
    grown = browser.wait_for(f"{BUSY} && {ANSWER}.length > {len(started)} && {ANSWER}")
    note = browser.wait_for(NOTE)
    whole = browser.run(f"return {ANSWER}")
    assert whole.startswith(grown) and grown.startswith(started) and "tokens in" in note
    assert is_shown(browser, "#send") and not is_shown(browser, "#stop") and browser.run(f"return {BUSY}") is None


def test_stop_ends_the_work_and_the_conversation_goes_on(browser: Browser, service: Service) -> None:
    tally = Tally(service.url)
    write(browser, f"Tell me a long story.{ENTER}")
    browser.wait_for(f"{BUSY} && {ANSWER} && (document.getElementById('stop').click(), true)")
    assert browser.wait_for(NOTE) == "Stopped."
    assert tally.wait_until(was_cancelled)
    write(browser, "And then?")
    browser.click("#send")
    browser.wait_for(f"document.querySelectorAll('#conversation li').length === 4 && {ANSWER}")
    assert browser.run("return document.getElementById('text').value") == ""
    browser.click("#new")
    assert is_shown(browser, "#welcome") and browser.run("return document.querySelector('#conversation li')") is None


def test_a_busy_service_is_reported_and_the_question_can_be_sent_again(browser: Browser, service: Service) -> None:
    tally = Tally(service.url)
    with long_answers(service.url, ANSWERS + QUEUE_SIZE):
        write(browser, f"Am I too late?{ENTER}")
        browser.wait_for("document.getElementById('problem').checkVisibility()")
        assert "busy" in browser.run("return document.getElementById('problem').textContent")
        assert browser.run("return document.getElementById('text').value") == "Am I too late?"
    assert tally.wait_until(in_flight(0))
    browser.click("#send")
    browser.wait_for(ANSWER)
    assert not is_shown(browser, "#problem")


def test_an_answer_that_is_cut_off_is_reported_and_kept(browser: Browser, service: Service) -> None:
    write(browser, f"Tell me a long story.{ENTER}")
    browser.wait_for(f"{BUSY} && {ANSWER}")
    threads = Path(f"/proc/{service.process.pid}/task").iterdir()
    (worker,) = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    os.kill(worker, signal.SIGKILL)
    assert browser.wait_for(NOTE) == "Cut off."
    assert "could not complete" in browser.run("return document.getElementById('problem').textContent")
    assert is_shown(browser, "#send") and browser.run(f"return {ANSWER}")
    service.wait_until_ready()


def test_the_page_follows_the_answer_unless_the_reader_scrolls_up(browser: Browser) -> None:
    browser.resize(320, 400)
    browser.click("#ideas li:first-child button")
    browser.wait_for(f"{BUSY} && {OVERFLOW} > 100 && {BELOW} < 2")
    browser.run("document.getElementById('scroll').scrollTop = 0")
    browser.wait_for(NOTE)
    assert browser.run("return document.getElementById('scroll').scrollTop") == 0
    write(browser, f"And then?{ENTER}")
    browser.wait_for(f"document.querySelectorAll('.assistant').length === 2 && {ANSWER} && {BELOW} < 2")


def test_everything_fits_a_small_screen_and_has_a_name(browser: Browser) -> None:
    browser.resize(320, 640)
    browser.click("#ideas li:last-child button")
    browser.wait_for(f"{BUSY} && {ANSWER}")
    widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    outside = browser.run("""
        const isInside = ({ left, right }) => left >= 0 && right <= innerWidth;
        return [...document.querySelectorAll('button, textarea, a, li')].filter((node) => node.checkVisibility())
            .filter((node) => !isInside(node.getBoundingClientRect())).map((node) => node.outerHTML);
    """)
    assert outside == []
    nameless = browser.run("""
        return [...document.querySelectorAll('button, textarea, a')]
            .filter((node) => !(node.labels?.[0] ?? node).textContent.trim()).map((node) => node.outerHTML);
    """)
    assert nameless == []


def test_the_browser_has_nothing_to_complain_about(browser: Browser) -> None:
    entries = browser.command("/se/log", type="browser")
    assert [entry["message"] for entry in entries if "503" not in entry["message"]] == []
