"""The code in the README and in the documentation runs as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from ..asgi.service import launched
from ..support import DEADLINE, ROOT, script_environment, wait_until, write_script

MODELS = {
    "docs/index.md": """
        def load_model():
            return lambda image: [f"{len(image)} bytes"]
    """,
}
"""What the reader has of their own, where the page does not show it."""


def modules_of(page: str) -> dict[str, str]:
    """Return the modules that a page shows: each block of Python begins with a comment that names its file."""
    blocks = re.findall(r"^```python\n# (\w+\.py)(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return {name: f"#{text}" for name, text in blocks}


def write_modules(page: str, directory: Path) -> None:
    """Write the modules that a page shows, as they are printed there."""
    for name, text in modules_of(page).items():
        (directory / name).write_text(text)


def test_the_readme_passes_mypy_strict_as_printed(tmp_path: Path) -> None:
    write_modules("README.md", tmp_path)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.mypy_cache", "main.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=script_environment(), capture_output=True, text=True, timeout=3 * DEADLINE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A task has the fields that its class declares: a typing error is found.
    pipeline = tmp_path / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("task.lines =", "task.lnies ="))
    done = subprocess.run(
        command, cwd=tmp_path, env=script_environment(), capture_output=True, text=True, timeout=3 * DEADLINE
    )
    assert '"OcrTask" has no attribute "lnies"' in done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_service_of_a_page(page: str, tmp_path: Path) -> None:
    if page in MODELS:
        write_script(tmp_path, MODELS[page], "models.py")
    write_modules(page, tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {"models.py", "pipeline.py", "main.py"}
    with launched(tmp_path, ["uvicorn", "main:app", "--port={port}"]) as (process, port):
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                return httpx.get(f"{url}/ready").status_code == 200
            except httpx.TransportError:
                return False

        assert wait_until(lambda: process.poll() is not None or is_ready(), DEADLINE), (tmp_path / "log").read_text()
        picture = b"x" * 100_000
        assert httpx.post(f"{url}/ocr", content=picture).json() == ["100000 bytes"]
        assert httpx.post(f"{url}/ocr", files={"image": ("a.png", picture)}).json() == ["100000 bytes"]
        if page == "README.md":
            response = httpx.post(f"{url}/ocr?min_score=0.1", content=picture)
            assert response.json() == ["100000 bytes", "a spot"]
        process.terminate()
        process.wait(DEADLINE)


def test_the_endpoint_and_the_script_of_the_page_on_calls(tmp_path: Path) -> None:
    for name, text in modules_of("docs/calls.md").items():
        (tmp_path / name).write_text(text)
    assert run(tmp_path, "script.py", "1", "2.5") == "2 numbers, 3.5 together\n"
    assert "1 passed" in run(tmp_path, "-m", "pytest", "-q", "test_main.py")


class Answers(BaseHTTPRequestHandler):
    """Answers a question with its text in capitals."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"text": question["text"].upper()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


def test_the_scripts_of_the_page_on_streaming(tmp_path: Path) -> None:
    write_modules("docs/streaming.md", tmp_path)
    assert run(tmp_path, "script.py") == "one\nat\na\ntime\n4\n"
    assert run(tmp_path, "llm.py") == "[['the', 'first', 'text'], ['another']]\n"
    assert run(tmp_path, "convert.py") == "50%\n100%\n['ONE', 'TWO']\n"
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert run(tmp_path, "ask.py", ANSWERS_URL=url) == "['WHY?', 'WHEN?']\n"
        server.shutdown()
        thread.join()
    assert run(tmp_path, "-c", textwrap.dedent(SERVED)) == 'one two\n2 data: "three"\n\n\n'
    assert run(tmp_path, "-c", textwrap.dedent(EVENTS)).split("\n\n") == [
        'data: {"text":"one"}',
        'data: {"text":"two"}',
        '\nevent: word\ndata: "one"',
        "event: end\ndata: 1",
        '\ndata: "two"\nid: 2\nretry: 1000',
        "event: end",
        "\n",
    ]


SERVED = """
    from plain import app as plain
    from sockets import app
    from starlette.testclient import TestClient

    with TestClient(app) as client, client.websocket_connect("/echo") as socket:
        socket.send_text("one two")
        print(socket.receive_text(), socket.receive_text())
    with TestClient(plain) as client:
        print(client.post("/echo", content="one two").json(), client.post("/echo?stream", content="three").text)
"""


EVENTS = """
    import failures
    import resuming
    from events import app
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        print(client.post("/echo?text=one+two").text)
        print(client.post("/safe?text=one").text)
        print(client.get("/numbered?text=one+two", headers={"last-event-id": "1"}).text)
"""


def run(directory: Path, *arguments: str, **environment: str) -> str:
    """Run a script and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=directory,
        env={**script_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_task_of_the_page_on_uploads(tmp_path: Path) -> None:
    """It makes an endpoint."""
    (tmp_path / "pipeline.py").write_text(modules_of("docs/uploads.md")["pipeline.py"])
    source = """
        from fastapi import FastAPI
        from fastapi_aqueduct import Aqueduct, Flow, flow_endpoint
        from pipeline import Passport
        from tests.handlers import Each

        flow = Flow(Each())
        app = FastAPI()

        @app.post("/passport")
        @flow_endpoint(flow)
        async def passport(task: Passport) -> bool:
            return task.valid

        Aqueduct(flow).install(app)
        operation = app.openapi()["paths"]["/passport"]["post"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        print(*form["properties"], *form["required"], *[item["name"] for item in operation["parameters"]])
    """
    write_script(tmp_path, source)
    done = subprocess.run(
        [sys.executable, "-W", "error", "main.py"],
        cwd=tmp_path,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.stdout == "front back visas country front min_score\n", done.stderr
