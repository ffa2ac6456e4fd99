"""A model behind `/invocations` and `/ping`: what clients send, what hooks do, and what becomes of both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fastapi_aqueduct import ConfigurationError, InvalidArgument, StartError
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.runtime import runtime_of
from fastapi_aqueduct.sagemaker import NotAcceptable, create_app, testing
from fastapi_aqueduct.sagemaker.invocation import Inquiry, Invocation, ModelHandler
from fastapi_aqueduct.sagemaker.plugins import PlugIn
from fastapi_aqueduct.testing import client, inline

from ..handlers import Gate
from ..support import DEADLINE, eventually
from . import batched, held, tides, wrong

TIDES, BATCHED = tides.__name__, batched.__name__


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def http(model_dir: Path) -> Iterator[TestClient]:
    """Run the service in two processes."""
    app = create_app(TIDES, nprocs=2, model_dir=model_dir, mp_start_method="forkserver", timeout_sec=DEADLINE)
    with TestClient(app) as http:
        yield http


def test_a_prediction_is_made_in_a_worker(http: TestClient) -> None:
    reply = http.post("/invocations", json={"harbour": "Brest"})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert (reply.json()["harbour"], reply.json()["height"]) == ("Brest", 7.5)
    assert reply.json()["pid"] != os.getpid()


def test_the_model_is_loaded_once_in_each_worker(http: TestClient, model_dir: Path) -> None:
    """And not at each invocation, which is a question of inference-server's manual."""
    pids = {http.post("/invocations", json={"harbour": "Brest"}).json()["pid"] for _ in range(20)}
    loads = (model_dir / "loads").read_text().split()
    assert len(loads) == len(set(loads)) == 2
    assert pids <= set(map(int, loads))


def test_messages_of_a_queue_are_sent_over_http(http: TestClient) -> None:
    """Another question of the manual; several consumers wait at the same time."""
    messages = [f"harbour {number}" for number in range(20)]
    with ThreadPoolExecutor(4) as consumers:
        found = consumers.map(lambda name: http.post("/invocations", json={"harbour": name}).json(), messages)
        assert [prediction["harbour"] for prediction in found] == messages


@pytest.mark.parametrize(
    ("headers", "status", "media_type"),
    [
        ({"Accept": "text/csv"}, 200, "text/csv; charset=utf-8"),
        ({"Accept": "text/csv;q=0.3, application/*"}, 200, "application/json"),
        ({"Accept": "image/png"}, 406, "text/plain; charset=utf-8"),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, "application/json"),
        ({"Content-Type": "text/csv"}, 415, "text/plain; charset=utf-8"),
        ({"Content-Type": "application/"}, 415, "text/plain; charset=utf-8"),
        ({"Content-Type": "/"}, 415, "text/plain; charset=utf-8"),
        ({"Content-Type": ""}, 415, "text/plain; charset=utf-8"),
    ],
)
def test_media_types_are_negotiated(http: TestClient, headers: dict[str, str], status: int, media_type: str) -> None:
    given = {"Content-Type": "application/json"} | headers
    reply = http.post("/invocations", content=b'{"harbour": "Brest"}', headers=given)
    assert (reply.status_code, reply.headers["content-type"]) == (status, media_type)


def test_a_hook_refuses_a_request_in_words(http: TestClient) -> None:
    reply = http.post("/invocations", json={"port": "Brest"})
    assert (reply.status_code, reply.text) == (400, "The body names no harbour.")
    with pytest.raises(LookupError, match="no tide in Atlantis"):  # which a server logs, and answers with 500
        http.post("/invocations", json={"harbour": "Atlantis"})


def test_the_other_paths(http: TestClient) -> None:
    ping = http.get("/ping")
    assert (ping.status_code, ping.content) == (200, b"")
    assert http.get("/execution-parameters").json() == {
        **{"BatchStrategy": "MultiRecord", "MaxConcurrentTransforms": 2, "MaxPayloadInMB": 6}
    }
    assert http.get("/ready").json()["steps"][0]["ready"] == 2
    assert http.get("/model").status_code == 404
    assert http.get("/invocations").status_code == 405


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a service in threads of the test's process."""
    with inline(app.state.aqueduct.flows[0]):
        async with client(app, raise_app_exceptions=False) as http:
            yield http


async def test_a_request_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{}"

    async with served(create_app(TIDES, model_dir=tmp_path)) as http:
        for headers in ({"Content-Type": "text/csv"}, {"Content-Type": "application/json", "Accept": "image/png"}):
            reply = await http.post("/invocations", content=body(), headers=headers)
            assert reply.status_code in (415, 406)
    assert not read


def invocations(*bodies: bytes) -> list[Invocation]:
    return [Invocation(memoryview(body), "text/plain") for body in bodies]


def failure_of(task: Invocation) -> BaseException | None:
    return runtime_of(task).get("failure")


def test_predict_fn_gets_a_list_and_what_is_refused_fails_alone() -> None:
    handler = ModelHandler(PlugIn(BATCHED, ""), "", "*/*", takes_lists=True)
    handler.on_start()
    inquiry, tasks = Inquiry(), invocations(b"1", b"x", b"13", b"4")
    handler.handle(inquiry, *tasks)
    assert [task.answer for task in tasks] == [b"1 of 3", b"", b"", b"4 of 3"]
    assert [type(failure_of(task)) for task in tasks] == [NoneType, ValueError, NotAcceptable, NoneType]
    assert inquiry.contract.batch_strategy == "SingleRecord"
    handler.handle(*(alone := invocations(b"x")))
    assert isinstance(failure_of(*alone), ValueError)


def test_an_answer_without_its_media_type_is_an_error_of_the_plugin() -> None:
    handler = ModelHandler(PlugIn(f"{wrong.__name__}:OnlyBytes", ""), "", "*/*", takes_lists=False)
    handler.on_start()
    handler.handle(*(tasks := invocations(b"x")))
    failure = failure_of(*tasks)
    assert isinstance(failure, InvalidArgument)
    assert str(failure) == "output_fn must return bytes and their media type, got b'x' of type bytes"


async def test_a_service_with_batches() -> None:
    async with served(create_app(BATCHED, batch_size=4, batch_timeout="auto")) as http:
        replies = await asyncio.gather(*(number_request(http, number) for number in range(8)))
        assert [reply.text.partition(" ")[0] for reply in replies] == list("01234567")
        parameters = (await http.get("/execution-parameters")).json()
        assert parameters == {"BatchStrategy": "SingleRecord", "MaxConcurrentTransforms": 7, "MaxPayloadInMB": 3}


async def number_request(http: httpx2.AsyncClient, number: float) -> httpx2.Response:
    return await http.post("/invocations", content=str(number), headers={"Content-Type": "text/plain"})


async def test_a_list_of_another_length_is_an_error_of_the_plugin() -> None:
    app = create_app(BATCHED, batch_size=1)
    with inline(app.state.aqueduct.flows[0]):
        async with client(app) as http:
            with pytest.raises(ConfigurationError, match="must return one prediction for each of 1 inputs"):
                await number_request(http, -1)


async def test_a_hook_may_decide_on_the_content_type() -> None:
    async with served(create_app(BATCHED, batch_size=1)) as http:
        assert (await http.post("/invocations", content=b"1")).status_code == 415
        headers = [("Content-Type", "text/plain"), ("Accept", "a/b"), ("Accept", "c/d")]
        reply = await http.post("/invocations", content=b"1", headers=headers)
        assert reply.status_code == 406
        assert reply.text == "The prediction can be written as text/plain, and not as a/b,c/d."


async def ask(http: httpx2.AsyncClient) -> int:
    return (await http.get("/ping")).status_code


async def test_ping_tells_what_the_model_says_of_itself(tmp_path: Path) -> None:
    """From the first request on, and while the service runs."""
    ill = tmp_path / "ill"
    ill.touch()
    async with served(create_app(TIDES, model_dir=tmp_path, timing=Timing(check_interval=0.02))) as http:
        reply = await http.get("/ping")
        assert (reply.status_code, reply.content) == (503, b"")
        assert (await http.get("/ready")).json()["status"] == "unhealthy"
        assert (await http.post("/invocations", json={"harbour": "Brest"})).status_code == 200
        for is_ill, status in ((False, 200), (True, 503)):
            if is_ill:
                ill.touch()
            else:
                ill.unlink()
            async with asyncio.timeout(DEADLINE):
                while await ask(http) != status:
                    await asyncio.sleep(0.005)


async def test_a_form_is_passed_as_it_was_sent(tmp_path: Path) -> None:
    async with served(create_app(TIDES, model_dir=tmp_path)) as http:
        reply = await http.post("/invocations", files={"image": b"x" * 100})
        assert reply.request.read().startswith(b"--")
        assert reply.json()["harbour"] == f"{len(reply.request.read())} --"


async def test_a_body_is_passed_as_it_was_sent() -> None:
    """Also an empty one, and one that is larger than what travels beside shared memory."""
    async with served(create_app(None)) as http:
        for body in (b"", b"x" * 1_000_000):
            reply = await http.post("/invocations", content=body)
            assert (reply.status_code, reply.content) == (200, body)


async def test_the_environment_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGEMAKER_PROGRAM", TIDES + ".py")
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_WORKERS", "3")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1")
    async with served(create_app()) as http:
        assert (await http.post("/invocations", json={"harbour": "Brest"})).text == "Brest,7.5\n"
        assert (await http.get("/execution-parameters")).json()["MaxConcurrentTransforms"] == 3
        assert (await http.post("/invocations", json={"harbour": "x" * (1 << 20)})).status_code == 413
    assert (tmp_path / "loads").exists()


async def test_the_server_is_asynchronous(tmp_path: Path) -> None:
    """A question of inference-server's manual: it has the connections of all while a model computes for one."""
    gate = Gate(tmp_path)
    async with served(create_app(held.__name__)) as http:
        replies = [asyncio.create_task(http.post("/invocations", content=str(tmp_path))) for _ in range(3)]
        await eventually(gate.is_entered)
        assert await ask(http) == 200
        assert not any(reply.done() for reply in replies)
        gate.open()
        assert [reply.content for reply in await asyncio.gather(*replies)] == [b"done"] * 3


async def test_a_model_that_leaks_has_its_worker_replaced_without_a_failure(tmp_path: Path) -> None:
    """A question of inference-server's manual."""
    app = create_app(TIDES, model_dir=tmp_path, max_tasks=5, mp_start_method="forkserver", timeout_sec=DEADLINE)
    pids: set[int] = set()
    async with client(app) as http:
        while len(pids) < 2:
            reply = await http.post("/invocations", json={"harbour": "Brest"})
            assert reply.status_code == 200
            pids.add(reply.json()["pid"])


async def test_a_module_that_is_not_there_ends_the_start() -> None:
    with pytest.raises(StartError) as caught:
        async with served(create_app("no_such_module")):
            pass
    assert "there is no module no_such_module" in str(caught.value.__cause__ or caught.value)


def test_options_are_those_of_flows() -> None:
    with pytest.raises(InvalidArgument, match="create_app has no option workers"):
        create_app(TIDES, workers=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="batch_size >= 1"):
        create_app(TIDES, batch_size=0)
    with pytest.raises(ConfigurationError, match="check_timeout > 0"):
        create_app(TIDES, check_timeout=0)


def test_a_serializer_of_the_package_sagemaker(tmp_path: Path) -> None:
    """It has this form; the model is loaded for each call, from the directory of the call."""

    class Serializer:
        CONTENT_TYPE = "application/json"

        def serialize(self, data: str) -> bytes:
            return f'{{"harbour": "{data}"}}'.encode()

    class Deserializer:
        ACCEPT = ("text/csv",)

        def deserialize(self, stream: Any, content_type: str) -> list[str]:
            assert content_type == "text/csv; charset=utf-8"
            try:
                return str(stream.read().decode()).strip().split(",")
            finally:
                stream.close()

    found = testing.predict(
        "Brest", target=TIDES, model_dir=tmp_path, serializer=Serializer(), deserializer=Deserializer()
    )
    assert found == ["Brest", "7.5"]
    with pytest.raises(AssertionError, match="the service has answered 400: The body names no harbour"):
        testing.post_invocations(target=TIDES, model_dir=tmp_path, json={})
