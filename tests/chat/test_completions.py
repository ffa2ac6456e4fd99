"""The API over HTTP, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from example_app.chat.main import build_app
from example_app.chat.model import CONTEXT, Sampling
from example_app.chat.pipeline import build_flow
from example_app.chat.settings import Settings
from example_app.service import Service

from ..asgi.support import serving
from ..support import eventually, pids
from .questions import (
    ANSWERS,
    LONG_SEED,
    LONG_TEMPERATURE,
    MESSAGES,
    MODEL,
    QUEUE_SIZE,
    Tally,
    answer_to,
    was_cancelled,
)

WHOLE = "/v1/chat/completions"


def texts(chunks: list[ChatCompletionChunk]) -> list[str]:
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


class TestAnswers:
    def test_a_whole_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5, seed=1)
        assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL
        (choice,) = answer.choices
        assert choice.message.role == "assistant" and choice.finish_reason == "length"
        assert (choice.message.content, 5) == answer_to(Sampling(max_tokens=5, seed=1))
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 5, 11)

    def test_a_streamed_answer(self, client: openai.OpenAI) -> None:
        chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5, seed=1, stream=True))
        assert ("".join(texts(chunks)), len(chunks) - 2) == answer_to(Sampling(max_tokens=5, seed=1))
        assert {(chunk.object, chunk.id, chunk.model) for chunk in chunks} == {
            ("chat.completion.chunk", chunks[0].id, MODEL)
        }
        assert chunks[0].choices[0].delta.role == "assistant"
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] == "length" and set(reasons[:-1]) == {None}
        assert all(chunk.usage is None for chunk in chunks)

    def test_a_stream_ends_with_the_numbers_of_tokens_if_they_are_wanted(self, client: openai.OpenAI) -> None:
        chunks = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        *_, last = chunks
        assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 3

    def test_the_events_of_a_stream(self, service: Service) -> None:
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2, "stream": True}
        with httpx.stream("POST", service.url + WHOLE, json=body, verify=False) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            *events, done, end = response.read().decode().split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}

    async def test_the_asynchronous_client(self, service: Service) -> None:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4, seed=2)
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=4, seed=2, stream=True
            )
            assert "".join(texts([chunk async for chunk in stream])) == whole.choices[0].message.content

    def test_stop_texts_end_an_answer(self, client: openai.OpenAI) -> None:
        expected, _ = answer_to(Sampling(seed=1, max_tokens=10))
        stop = expected.split()[4]
        for given in (stop, [stop, "no such text"]):
            answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, seed=1, max_tokens=20, stop=given)
            assert answer.choices[0].message.content == expected.partition(stop)[0]
            assert answer.choices[0].finish_reason == "stop"

    def test_the_newer_name_of_the_limit_and_greedy_sampling(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=2, temperature=0, top_p=0.5
        )
        assert (answer.choices[0].message.content, 2) == answer_to(Sampling(max_tokens=2, temperature=0))

    def test_every_kind_of_message(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "Alice."},
                {"role": "user", "content": [{"type": "text", "text": text} for text in ("Tell me a", " story.")]},
            ],
            max_tokens=1,
        )
        assert answer.usage is not None and answer.usage.prompt_tokens == 3 + 2 + 2 + 5

    def test_the_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by == "fastapi_aqueduct"


class TestRefusals:
    def test_an_unknown_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model") and "gpt-9" in str(caught.value)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "wizard", "content": "?"}]}, "messages.0.role"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"temperature": 2.1}, "temperature"),
            ({"top_p": -1}, "top_p"),
            ({"n": 2}, "n"),
            ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ],
    )
    def test_an_invalid_request(self, client: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
        request: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, **changes}
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**request)
        assert caught.value.param is not None and caught.value.param.startswith(param)
        assert caught.value.type == "invalid_request_error"

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_conversation_that_is_too_long(self, client: openai.OpenAI, stream: bool) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "word " * CONTEXT}], stream=stream
            )
        assert caught.value.code == "context_length_exceeded"

    def test_a_body_that_is_no_json_and_a_path_that_does_not_exist(self, service: Service) -> None:
        for path, status in ((WHOLE, 400), ("/v1/nothing", 404)):
            response = httpx.post(service.url + path, content=b"{", verify=False)
            assert response.status_code == status
            assert response.json()["error"]["type"] == "invalid_request_error"

    async def test_a_busy_service(self, service: Service) -> None:
        tally = Tally(service.url)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            streams = [await long_answer(client) for _ in range(ANSWERS)]
            waiting = [asyncio.create_task(long_answer(client)) for _ in range(QUEUE_SIZE)]
            await eventually(lambda: tally.read()["queue_length"] == QUEUE_SIZE)
            for stream in (True, False):
                with pytest.raises(openai.InternalServerError) as caught:
                    await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
                assert caught.value.status_code == 503 and caught.value.type == "server_error"
                assert int(caught.value.response.headers["retry-after"]) >= 1
            for task in waiting:
                task.cancel()
            for answer in streams:
                await answer.close()
        assert tally.wait_until(lambda tasks: tasks["in_flight"] == 0 and tasks["cancelled"] == ANSWERS + QUEUE_SIZE)


class TestLeaving:
    """A client that leaves ends the generation: its task is cancelled, and does not complete."""

    def test_in_the_middle_of_a_stream(self, client: openai.OpenAI, service: Service) -> None:
        tally = Tally(service.url)
        with client.chat.completions.create(
            model=MODEL, messages=MESSAGES, seed=LONG_SEED, temperature=LONG_TEMPERATURE, stream=True
        ) as stream:
            next(stream)
        assert tally.wait_until(was_cancelled)

    async def test_in_the_middle_of_a_stream_of_the_asynchronous_client(self, service: Service) -> None:
        tally = Tally(service.url)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            async with await long_answer(client) as stream:
                async for _ in stream:
                    break
        assert tally.wait_until(was_cancelled)

    async def test_before_a_whole_answer(self, service: Service) -> None:
        tally = Tally(service.url)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            asking = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, seed=LONG_SEED, temperature=LONG_TEMPERATURE
            )
            task = asyncio.create_task(asking)
            await eventually(lambda: tally.read()["in_flight"] == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert tally.wait_until(was_cancelled)


async def long_answer(client: openai.AsyncOpenAI) -> openai.AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, seed=LONG_SEED, temperature=LONG_TEMPERATURE, stream=True
    )


async def test_an_answer_that_is_cut_off_is_an_error_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    flow = build_flow(Settings(MODEL, step_time=0.01))
    async with serving(build_app(flow, MODEL)) as http:
        async with openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
            stream = await long_answer(client)
            await anext(stream)
            os.kill(pids(flow)[0], signal.SIGKILL)
            with pytest.raises(openai.APIError, match="could not complete"):
                async for _ in stream:
                    pass
    assert "an answer was cut off: a worker of step reply" in caplog.text and "Traceback" not in caplog.text
    caplog.clear()  # the exception in the record keeps the flow
