"""The application in a process of its own, and the page of it in a browser."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from example_app.service import Service, running_service

from ..example.browser import Browser, open_browser
from ..handlers import Gate
from ..support import DEADLINE, wait_until

APPLICATION = "tests.status.application:app"
NOTHING = re.compile("(?!)")
REFUSED = re.compile(r"/ops/(restart|scale|replace) - Failed to load resource: .* status of 4(09|22)")
LOST = re.compile(r"net::ERR_|the server responded with a status of 50\d")
OPERATOR = ("operator", "secret")


class Watched:
    """The service and its page.

    Args:
        service: The service.
        browser: Shows its page.
        directory: Where its handlers look for gates.
        http: A client of the service.

    Attributes:
        expected: What the console may say of requests that fail; all else is a complaint.
    """

    def __init__(self, service: Service, browser: Browser, directory: Path, http: httpx.Client) -> None:
        self.service = service
        self.browser = browser
        self.directory = directory
        self.http = http
        self.expected = NOTHING

    def open(self, width: int = 1280, height: int = 1000) -> None:
        """Load the page anew and wait until it is drawn."""
        self.browser.resize(width, height)
        self.browser.open(self.service.url.replace("://", "://{}:{}@".format(*OPERATOR)) + "/ops/")
        self.browser.wait_for("document.body.dataset.connection === 'live'")

    def snapshot(self) -> dict[str, Any]:
        """Return what the page is sent."""
        document: dict[str, Any] = self.http.get("/ops/snapshot").json()
        return document

    def step(self, name: str) -> dict[str, Any]:
        """Return one step of it."""
        return next(step for flow in self.snapshot()["flows"] for step in flow["steps"] if step["name"] == name)

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Wait until the page shows a text."""
        self.browser.wait_for(f"document.querySelector({selector!r}).innerText.includes({text!r})")

    def wait_for_match(self, pattern: str, selector: str = "body") -> None:
        """Wait until the page shows a text that matches; the pattern is one of JavaScript."""
        self.browser.wait_for(f"/{pattern}/m.test(document.querySelector({selector!r}).innerText)")

    def cell(self, step: str, label: str) -> str:
        """Return an expression for what the table says of a step."""
        rows = "[...document.querySelectorAll('.steps > tbody > tr')]"
        row = f"{rows}.find((row) => row.cells[0].textContent === '{step}')"
        return f"{row}.querySelector('[data-label=\"{label}\"]').textContent"

    def wait_for_state(self, step: str, state: str) -> None:
        """Wait until the table says that a step is in a state."""
        self.browser.wait_for(f"{self.cell(step, 'State')} === '{state}'")

    def details(self, step: str) -> str:
        """Open the details of a step, and return the selector of their row."""
        button = f"button[aria-label='Details of step {step}']"
        if self.browser.run(f"return document.querySelector({button!r}).ariaExpanded") == "false":
            self.browser.click(button)
        row = self.browser.run(f"return document.querySelector({button!r}).getAttribute('aria-controls')")
        return f"#{row}"

    def press(self, step: str, label: str) -> str:
        """Press a button of a step, say yes, and return the answer."""
        row = self.details(step)
        found = f"[...document.querySelectorAll('{row} button')].find((button) => button.textContent === '{label}')"
        self.browser.run(f"{found}.click()")
        self.browser.wait_for("document.getElementById('question').open")
        self.browser.click("#question-yes")
        answer = f"document.querySelector('{row} .answer')"
        self.browser.wait_for(f"{answer}.className !== 'answer' && {answer}.textContent")
        text: str = self.browser.run(f"return {answer}.textContent")
        return text

    def outcome(self, step: str, label: str) -> str:
        """Press a button of a step, say yes, and return what became of the change, however long it takes."""
        self.press(step, label)
        assert wait_until(lambda: self.snapshot()["actions"][0]["state"] != "running", DEADLINE)
        text: str = self.snapshot()["actions"][0]["text"]
        return text

    @contextmanager
    def held(self, count: int, gate: str, path: str = "/caption") -> Iterator[None]:
        """Hold pictures in each step that decodes."""
        path += f"?fate=hold&gate={gate}"
        threads = [threading.Thread(target=self.http.get, args=[path]) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            assert wait_until(Gate(self.directory, gate).is_entered, DEADLINE)
            yield
        finally:
            Gate(self.directory, gate).open()
            for thread in threads:
                thread.join(DEADLINE)

    def kill(self, step: str) -> int:
        """Kill a worker of a step, and return which."""
        pid: int = next(worker["pid"] for worker in self.step(step)["workers"] if worker["role"] == "serving")
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def flag(self, name: str) -> Iterator[None]:
        """Have the step fragile break, or be ill, in this context."""
        path = self.directory / name
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def complaints(self) -> list[str]:
        """Return what the console of the browser says since the last time."""
        entries = self.browser.client.post("/se/log", json={"type": "browser"}).json()["value"]
        messages = [f"{entry['level']}: {entry['message']}" for entry in entries]
        return [message for message in messages if not self.expected.search(message)]


@contextmanager
def watched(**variables: str) -> Iterator[Watched]:
    """Run the service, with more variables of its environment, and a browser."""
    with tempfile.TemporaryDirectory() as name, open_browser() as browser:
        environment = {"STATUS_DIRECTORY": name, **variables}
        with running_service(APPLICATION, 0, environment) as service:
            service.wait_until_ready()
            # Without certificates, which it would read.
            with httpx.Client(base_url=service.url, timeout=DEADLINE, verify=False, auth=OPERATOR) as http:
                yield Watched(service, browser, Path(name), http)


@contextmanager
def calling(function: Callable[[], object], threads: int) -> Iterator[None]:
    """Call a function again and again in threads."""
    ends = threading.Event()

    def run() -> None:
        while not ends.is_set():
            function()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in running:
            thread.join()
