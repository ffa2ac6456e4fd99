"""The code on the page on the language model."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from example_app.chat.model import Sampling
from example_app.chat.pipeline import Reply
from example_app.service import Service

from ..guards.test_documentation import write_modules
from ..support import DEADLINE, ROOT
from .questions import answer_to

PAGE = "docs/language-model.md"


def test_the_client_of_the_page(service: Service, tmp_path: Path) -> None:
    write_modules(PAGE, tmp_path)
    command = [sys.executable, "-W", "error", "ask.py", f"{service.url}/v1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
    expected, _ = answer_to(Sampling(seed=1, max_tokens=40), "Tell me about the Cheshire Cat")
    assert done.stdout == expected, done.stderr


def test_the_handler_of_the_page_is_that_of_the_example() -> None:
    assert inspect.getsource(Reply.handle) in (ROOT / PAGE).read_text()
