"""The tutorial: its pages show the code that runs here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

from ..asgi.service import launched
from ..support import DEADLINE, ROOT, wait_until

TUTORIAL = ROOT / "docs" / "tutorial"

CHAPTERS = [path.name for path in sorted((TUTORIAL / "code").iterdir()) if path.is_dir()]

MARKS = dict.fromkeys(["task", "uploads", "steps", "batches"], pytest.mark.long)
"""Chapters whose code is much like that of the next ones."""

WORKERS = {"function": "AQUEDUCT_READ__READ__NPROCS", "lines": "AQUEDUCT_READING__DETECT__NPROCS"}
"""How many workers load the detector: they take most of the time of these tests, and one is enough for a picture."""


def is_ready(url: str) -> bool:
    """Return whether the probe responds 200."""
    try:
        return httpx.get(f"{url}/ready", verify=False, timeout=DEADLINE).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_code_on_a_page_of_the_tutorial_is_that_of_its_state(chapter: str) -> None:
    code = "\n".join(path.read_text() for path in sorted((TUTORIAL / "code" / chapter).glob("*.py")))
    page = (TUTORIAL / f"{chapter}.md").read_text()
    blocks = re.findall(r"^```python\n(?:# \w+\.py\n)?(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    assert [block for block in blocks if block not in code] == []


@pytest.mark.parametrize("chapter", [pytest.param(name, marks=MARKS.get(name, ())) for name in CHAPTERS])
def test_the_service_of_a_page_of_the_tutorial_reads_a_picture(
    chapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TUTORIAL / "code" / chapter, tmp_path, dirs_exist_ok=True)
    picture = (ROOT / "example_app" / "samples" / "tiny.png").read_bytes()
    if chapter in WORKERS:
        monkeypatch.setenv(WORKERS[chapter], "1")
    with launched(tmp_path, ["uvicorn", "main:app", "--port={port}"]) as (process, port):
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: process.poll() is not None or is_ready(url), DEADLINE), (tmp_path / "log").read_text()
        if chapter == "uploads":
            files = {"page": ("a.png", picture, "image/png")}
            answer = httpx.post(f"{url}/read", files=files, data={"title": "Shop"}, timeout=100)
        else:
            answer = httpx.post(f"{url}/read", content=picture, headers={"content-type": "image/png"}, timeout=100)
        assert "Apples" in answer.text and "1.95" in answer.text
        if chapter == "lines":
            lines = httpx.post(f"{url}/read/lines", content=picture, timeout=100).text
            assert [json.loads(line[6:])["text"] for line in lines.split("\n\n") if line] == ["Apples", "1.95"]
        if chapter in ("steps", "batches", "lines"):
            refused = httpx.post(f"{url}/read", content=b"no picture", timeout=100)
            assert (refused.status_code, refused.json()) == (415, {"detail": "the upload is not a picture"})
        process.terminate()
        process.wait(DEADLINE)
