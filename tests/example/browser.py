"""A real Chromium, driven by the commands of the WebDriver standard."""

import base64
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
]
SCRIPT_TIMEOUT = 60.0
"""Seconds that a condition on the page has to come true."""


class Browser:
    """One window of a browser.

    Args:
        client: Speaks to the driver; its base URL is that of the session.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def command(self, path: str, **values: Any) -> Any:
        """Send one command of the standard and return its value."""
        response = self.client.post(path, json=values)
        assert response.status_code == 200, response.text
        return response.json()["value"]

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.command("/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page and return its result."""
        return self.command("/execute/sync", script=script, args=arguments)

    def wait_for(self, condition: str) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        script = f"""
            const done = arguments[0];
            (function look() {{ const value = {condition}; value ? done(value) : requestAnimationFrame(look); }})();
        """
        try:
            return self.command("/execute/async", script=script, args=[])
        except AssertionError as error:
            error.add_note(f"The page shows:\n{self.run('return document.body.innerText')}")
            raise

    def find(self, selector: str) -> str:
        """Return the driver's name of the first element that matches."""
        element: dict[str, str] = self.command("/element", using="css selector", value=selector)
        return next(iter(element.values()))

    def click(self, selector: str) -> None:
        """Click where a person would."""
        self.command(f"/element/{self.find(selector)}/click")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file of this machine in a file field."""
        self.command(f"/element/{self.find(selector)}/value", text=str(path))

    def resize(self, width: int, height: int) -> None:
        """Give the page the size of another screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)

    def screenshot(self) -> bytes:
        """Return a PNG of the window."""
        value: str = self.client.get("/screenshot").json()["value"]
        return base64.b64decode(value)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser with a fresh profile and close it at the end."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and chromedriver, "the page is tested in Chromium: apt-get install chromium chromium-driver"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, running_driver(chromedriver) as url:
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        with httpx.Client(timeout=SCRIPT_TIMEOUT + 30) as client:
            started = client.post(f"{url}/session", json={"capabilities": {"alwaysMatch": capabilities}})
            assert started.status_code == 200, started.text
            session = f"{url}/session/{started.json()['value']['sessionId']}"
            client.base_url = httpx.URL(session)
            try:
                browser = Browser(client)
                browser.command("/timeouts", script=int(SCRIPT_TIMEOUT * 1000))
                yield browser
            finally:
                # Not "": a base URL ends with a slash, and the driver knows no such session. Its browser would remain.
                closed = client.delete(session)
                assert closed.status_code == 200, closed.text


@contextmanager
def running_driver(chromedriver: str) -> Iterator[str]:
    """Start the driver on a port of its choice and yield its address."""
    output = ""
    # It ends at once when the port that it chooses for IPv4 is in use for IPv6.
    for _ in range(5):
        with subprocess.Popen([chromedriver, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            try:
                for line in driver.stdout:
                    output += line
                    if found := re.search(r"started successfully on port (\d+)", line):
                        yield f"http://127.0.0.1:{found[1]}"
                        return
            finally:
                driver.terminate()
    raise AssertionError(f"{chromedriver} does not start:\n{output}")
