"""The code in the README and in the documentation runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

import fastapi_aqueduct
from fastapi_aqueduct import exceptions

from ..asgi.service import Service, launched
from ..support import DEADLINE, ROOT, check_types, script_environment, wait_until, write_script

MODELS = {
    "README.md": """
        from dataclasses import dataclass, field

        from fastapi_aqueduct import BaseTask, BaseTaskHandler

        @dataclass
        class Photo(BaseTask):
            image: bytes
            faces: list[str] = field(default_factory=list)
            plates: list[str] = field(default_factory=list)
            caption: str = ""

        class Decode(BaseTaskHandler):
            def handle(self, task: Photo) -> None:
                task.image = task.image.upper()

        class Faces(BaseTaskHandler):
            def handle(self, *tasks: Photo) -> None:
                for task in tasks:
                    task.faces.append(f"a face in {task.image!r} with {task.plates}")

        class Plates(BaseTaskHandler):
            def handle(self, task: Photo) -> None:
                task.plates = [f"a plate beside {task.faces}"]

        class Read(BaseTaskHandler):
            def handle(self, task: Photo) -> None:
                task.plates.append("read")

        class Caption(BaseTaskHandler):
            def handle(self, task: Photo) -> None:
                task.caption = ", ".join(task.faces + task.plates)
    """,
    "docs/pipelines.md": """
        from collections.abc import Callable

        def load_model() -> Callable[[memoryview], list[str]]:
            return lambda image: [f"{len(image)} bytes"]
    """,
}
"""What the reader has of their own, where the page does not show it."""


def modules_of(page: str) -> dict[str, str]:
    """Return the modules that a page shows: each block of Python begins with a comment that names its file."""
    blocks = re.findall(r"^```python\n# (\w+\.py)(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return {name: f"#{text}" for name, text in blocks}


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    described = set(re.findall(r"^::: fastapi_aqueduct\.(\w+)$", pages, re.MULTILINE))
    described |= {name for name in vars(exceptions) if "::: fastapi_aqueduct.exceptions\n" in pages}
    assert set(fastapi_aqueduct.__all__) <= described


def test_each_page_of_the_site_is_in_its_contents_and_in_llms_txt() -> None:
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    assert set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) == pages
    assert set(re.findall(r"^- \[.+?\]\(([\w/-]+\.md)\)", (docs / "llms.txt").read_text(), re.MULTILINE)) == pages


def test_the_first_page_has_the_example_of_the_readme() -> None:
    blocks = [modules_of(page)["main.py"] for page in ("README.md", "docs/index.md")]
    assert blocks[0] == blocks[1]


def test_the_page_on_docker_shows_the_file_of_the_example() -> None:
    assert (ROOT / "example_app" / "Dockerfile").read_text() in (ROOT / "docs" / "docker.md").read_text()


def write_modules(page: str, directory: Path) -> None:
    """Write the modules that a page shows, as they are printed there."""
    for name, text in modules_of(page).items():
        (directory / name).write_text(text)


def test_the_readme_is_short_and_passes_mypy_strict_as_printed(tmp_path: Path) -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
    source = modules_of("README.md")["main.py"]
    assert len(source.splitlines()) <= 20
    write_modules("README.md", tmp_path)
    write_script(tmp_path, MODELS["README.md"], "steps.py")
    assert check_types(tmp_path) == ""
    (tmp_path / "main.py").write_text(source.replace("stars(text) ", "stars(1) "))
    assert 'has incompatible type "int"; expected "str"' in check_types(tmp_path / "main.py")


@pytest.mark.parametrize("page", ["docs/functions.md", "docs/testing.md"])
def test_the_code_that_users_copy_passes_mypy_strict(page: str, tmp_path: Path) -> None:
    write_modules(page, tmp_path)
    assert check_types(tmp_path) == ""


def test_a_misspelt_field_is_an_error_of_mypy(tmp_path: Path) -> None:
    """A task has the fields that its class declares."""
    write_script(tmp_path, MODELS["docs/pipelines.md"], "models.py")
    write_modules("docs/pipelines.md", tmp_path)
    assert check_types(tmp_path / "main.py") == ""
    pipeline = tmp_path / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace("task.lines =", "task.lnies =") + "\n")  # mypy compares sizes
    assert '"OcrTask" has no attribute "lnies"' in check_types(tmp_path / "main.py")


@contextmanager
def served(directory: Path, application: str = "main:app") -> Iterator[Service]:
    """Serve the application of a page as the page says."""
    with launched(directory, ["uvicorn", application, "--port={port}"]) as (process, port):
        service = Service(directory, process, port)
        assert wait_until(lambda: process.poll() is not None or service.probe() == 200, DEADLINE), service.log()
        yield service
        process.terminate()
        process.wait(DEADLINE)


CALLS = """
    from main import app, stars

    @app.get("/calls")
    async def calls() -> int:
        return stars.flow.statistics().steps[0].histograms.handle_time.count
"""
"""The application of the README, which tells how often its function was called."""


def test_the_service_of_the_readme(tmp_path: Path) -> None:
    """The calls of many requests form batches. The death of a worker fails nothing."""
    write_modules("README.md", tmp_path)
    write_script(tmp_path, CALLS, "counted.py")
    texts = ["x" * length for length in range(64)]
    with (
        served(tmp_path, "counted:app") as service,
        httpx.Client(verify=False, timeout=DEADLINE) as http,
        ThreadPoolExecutor(16) as threads,
    ):

        def rate(text: str) -> int:
            return int(http.post(f"{service.url}/stars", params={"text": text}).raise_for_status().text)

        for kills in (False, True):
            answers = threads.map(rate, texts)
            if kills:
                os.kill(min(service.workers()), signal.SIGKILL)
            assert list(answers) == [length % 5 + 1 for length in range(64)]
            assert kills or http.get(f"{service.url}/calls").json() <= len(texts) / 2


def test_the_branches_of_the_readme(tmp_path: Path) -> None:
    write_modules("README.md", tmp_path)
    write_script(tmp_path, MODELS["README.md"], "steps.py")
    source = """
        import asyncio

        from fastapi_aqueduct.testing import inline
        from photos import flow
        from steps import Photo

        async def main():
            async with inline(flow):
                print((await flow.process(Photo(b"photo"))).caption)

        asyncio.run(main())
    """
    assert run(tmp_path, "-c", textwrap.dedent(source)) == "a face in b'PHOTO' with [], a plate beside [], read\n"


def test_the_service_of_the_overview(tmp_path: Path) -> None:
    write_script(tmp_path, MODELS["docs/pipelines.md"], "models.py")
    write_modules("docs/pipelines.md", tmp_path)
    with served(tmp_path) as service:
        picture = b"x" * 100_000
        for body in ({"content": picture}, {"files": {"image": ("a.png", picture)}}):
            assert httpx.post(f"{service.url}/ocr", **body, timeout=DEADLINE).json() == ["100000 bytes"]


def test_the_endpoint_and_the_script_of_the_page_on_calls(tmp_path: Path) -> None:
    for name, text in modules_of("docs/calls.md").items():
        (tmp_path / name).write_text(text)
    assert run(tmp_path, "script.py", "1", "2.5") == "2 numbers, 3.5 together\n"
    # Plugins that other packages have installed would take most of the time.
    tested = run(tmp_path, "-m", "pytest", "-q", "test_main.py", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "1 passed" in tested


def test_the_context_of_a_caller_as_the_page_on_calls_shows_it(tmp_path: Path) -> None:
    write_modules("docs/calls.md", tmp_path)
    source = """
        import asyncio
        from fastapi_aqueduct.testing import client
        from traced_app import app

        async def echo(text):
            return (await http.post(f"/echo?text={text}", headers={"x-request-id": f"id-{text}"})).json()

        async def main():
            global http
            async with client(app) as http:
                print(await asyncio.gather(echo("one"), echo("two")))

        asyncio.run(main())
    """
    assert run(tmp_path, "-c", textwrap.dedent(source)) == "['id-one: one', 'id-two: two']\n"


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


def test_the_formats_of_the_page_on_logging(tmp_path: Path) -> None:
    write_modules("docs/logging.md", tmp_path)
    scripts = {name: start(tmp_path, textwrap.dedent(source)) for name, source in LOGGED.items()}
    lines = {name: collect(script) for name, script in scripts.items()}

    served = [json.loads(line) for line in lines["served"]]
    (record,) = [line for line in served if line.get("message") == "counted 2 words"]
    assert (record["flow"], record["step"], record["worker"], record["characters"]) == ("texts", "step1_Count", 0, 9)
    assert record["task_id"]
    (record,) = [line for line in served if line.get("message") == "no first word"]
    assert "IndexError: list index out of range" in record["exc_info"]
    (event,) = [line["event"] for line in served if "event" in line]
    assert event["logentry"]["message"] == "no first word"
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("IndexError", "list index out of range")
    (frame,) = exception["stacktrace"]["frames"]
    assert (frame["module"], frame["function"], frame["abs_path"]) == ("pipeline", "handle", f"{tmp_path}/pipeline.py")
    assert frame["context_line"].strip() == 'log.debug("the first is %s", task.text.split()[0])'
    assert [event["extra"][name] for name in ("flow", "step", "worker")] == ["texts", "step1_Count", 0]
    assert event["breadcrumbs"]["values"][-1]["message"] == "counted 0 words"

    (line,) = [json.loads(line) for line in lines["structured"] if "missing" in line]
    assert {**line, "timestamp": "", "task_id": ""} == {
        **{"event": "a page is missing", "page": 3, "level": "warning", "step": "step1_Read"},
        **{"timestamp": "", "task_id": ""},
    }


LOGGED = {
    "served": """
        import json
        import os
        import sys

        import sentry_sdk
        from json_logs import app
        from reported import app
        from sentry_sdk.transport import Transport
        from starlette.testclient import TestClient

        class Kept(Transport):
            def capture_envelope(self, envelope):
                if envelope.get_event() is not None:
                    print(json.dumps({"event": envelope.get_event()}, default=str), file=sys.stderr)

        sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=Kept)
        with TestClient(app) as client:
            client.post("/words?text=two+words")
            client.post("/words?text=")
    """,
    "structured": """
        from fastapi_aqueduct import BaseTask
        from structured import configure_output, flow

        configure_output()
        flow.start()
        flow.process_blocking(BaseTask())
    """,
}


def start(directory: Path, source: str) -> subprocess.Popen[str]:
    """Start a script whose output is its log."""
    return subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=directory,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def collect(script: subprocess.Popen[str]) -> list[str]:
    """Return the lines that a script has written."""
    output, _ = script.communicate(timeout=DEADLINE)
    assert script.returncode == 0, output
    return output.splitlines()


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
    assert done.stdout == "front back visas country front min_score x-agency\n", done.stderr


PAGES = ROOT / "tests" / "guards" / "pages"
"""For each of these pages, a program that runs beside the modules that it shows, and checks what the page says."""


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.py")))
def test_what_a_page_says(page: str, tmp_path: Path) -> None:
    write_modules(f"docs/{page}.md", tmp_path)
    run(tmp_path, str(shutil.copy(PAGES / f"{page}.py", tmp_path / "check_page.py")))


TRACED = """
    import asyncio

    from traced import app
    from fastapi_aqueduct.testing import client

    async def main():
        async with client(app) as http:
            print((await http.get("/words", params={"text": "two words"})).json())

    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_the_traces_of_the_page_on_metrics(tmp_path: Path) -> None:
    write_modules("docs/metrics.md", tmp_path)
    write_script(tmp_path, TRACED, "run.py")
    printed = run(tmp_path, "run.py")
    assert re.search("^2$", printed, re.MULTILINE)
    parts = r'^ {4}"name": "([^"]+)",$.*?"span_id": "(\w+)".*?"parent_id": "?(\w+)'
    spans = re.findall(parts, printed, re.MULTILINE | re.DOTALL)
    names = {id: name for name, id, _ in spans}
    parents = {name: names.get(parent) for name, _, parent in spans}
    assert parents["tokenize"] == "step count"
    assert parents["step count"] == parents["queue count"] == "fastapi.endpoint"
