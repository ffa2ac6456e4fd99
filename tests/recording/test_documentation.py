"""The story of the page "On call", from the alert to the fix, in a service that runs as the page shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from ..guards.test_documentation import served, write_modules
from ..support import DEADLINE, ROOT, script_environment, wait_until

PAGE = "docs/on-call.md"
MESSAGE = "max() arg is an empty sequence"
"""That of the fault of the page, in Python 3.11."""


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the page with the lines below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *lines = command.strip().splitlines()
            yield line, lines


def present_message() -> str:
    """Return the message of the fault of the page in the Python that runs the tests."""
    with pytest.raises(ValueError) as caught:
        max([])
    return str(caught.value)


def block(begin: str) -> str:
    """Return the block of Python of the page that begins with a text."""
    (found,) = re.findall(rf"^```python\n({re.escape(begin)}.*?)^```$", (ROOT / PAGE).read_text(), re.M | re.DOTALL)
    return str(found)


def test_the_story(tmp_path: Path) -> None:
    write_modules(PAGE, tmp_path)
    bin_path = f"{Path(sys.executable).parent}:{script_environment()['PATH']}"
    # Without the plugins that other packages have installed for pytest, which would take most of the time.
    options = {"PYTEST_ADDOPTS": "-p no:cacheprovider", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**script_environment(), "PATH": bin_path, **options}
    mended = block("            task.longest")
    with served(tmp_path) as service:
        for text in ("a word", " "):
            httpx.post(f"{service.url}/longest", params={"text": text, "customer": "Ann"}, timeout=DEADLINE)
        assert wait_until(lambda: "it is recorded:" in service.log(), DEADLINE)
        assert "The task is recorded: fastapi-aqueduct replay /" in service.log()
        (path,) = (tmp_path / "failures").iterdir()
        assert b"Ann" not in path.read_bytes()
        replays = 0
        for command, lines in commands():
            if "replay" in command and "--" not in command:
                replays += 1
            if replays == 2 and mended not in (source := (tmp_path / "scans.py").read_text()):
                (tmp_path / "scans.py").write_text(re.sub(r" +task\.longest =.*\n", mended, source))
            keys = "".join(f"{line[6:]}\n" for line in lines if line.startswith("(Pdb) "))
            command = command.replace("localhost:8000", service.url.removeprefix("http://"))
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, input=keys, capture_output=True, text=True
            )
            for line in lines:
                expected = line.removesuffix("...").removeprefix("(Pdb) ") if "(Pdb)" not in line else "(Pdb) "
                assert expected.replace(MESSAGE, present_message()) in done.stdout, (command, done)
        assert replays == 2
        (test,) = (tmp_path / "tests").glob("*.py")
        assert block("from scans import flow\n\nfrom fastapi_aqueduct.testing") in test.read_text()
        answer = httpx.post(f"{service.url}/longest", params={"text": " "}, timeout=DEADLINE)
        assert answer.json() == 0


def test_the_alert_and_the_metrics_of_the_page_are_there() -> None:
    page = (ROOT / PAGE).read_text()
    groups = yaml.safe_load((ROOT / "docs" / "monitoring" / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"`(Aqueduct[A-Z]\w+)`", page)) <= alerts
    assert set(re.findall(r"`(aqueduct_\w+_total)`", page)) == {
        "aqueduct_failures_recorded_total",
        "aqueduct_failures_dropped_total",
    }
