"""OpenAI's API for chat completions, over the flow of the chat."""

import logging
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import EventSourceResponse, JSONResponse, Response
from fastapi.sse import ServerSentEvent

from example_app.chat.model import FinishReason
from example_app.chat.pipeline import Question
from example_app.chat.problems import BROKEN, unknown_model
from example_app.chat.schema import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Model,
    ModelList,
    Problem,
    ProblemBody,
    Usage,
)
from fastapi_aqueduct import AqueductError, FlowDep, FlowStream, stream_response

log = logging.getLogger(__name__)

FIRST_TIMEOUT = 60.0
"""Seconds until the first token: the wait for a place, and the time to read the conversation."""

TOKEN_TIMEOUT = 30.0
"""Seconds between two tokens."""

ANSWER_TIMEOUT = 600.0
"""Seconds for a whole answer that is not streamed."""

OWNER = "fastapi_aqueduct"

EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk as JSON, an error as JSON, or [DONE]."}},
    "required": ["data"],
}
"""The JSON schema of an event of a streamed answer."""


class Completions:
    """The routes of the API.

    Args:
        model: The name of the only model.
    """

    def __init__(self, model: str) -> None:
        self._model = Model(id=model, created=int(time.time()), owned_by=OWNER)

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(prefix="/v1", tags=["OpenAI"])
        router.get("/models")(self.list_models)
        router.get("/models/{model}", responses={"4XX": {"model": ProblemBody}})(self.find_model)
        router.post(
            "/chat/completions",
            response_model=ChatCompletion,
            responses={
                200: {"content": {"text/event-stream": {"itemSchema": EVENT}}},
                "4XX": {"model": ProblemBody, "description": "The request cannot be served."},
                "5XX": {"model": ProblemBody, "description": "Busy (503, with Retry-After), or too slow (504)."},
            },
        )(self.complete)
        return router

    async def list_models(self) -> ModelList:
        """List the models."""
        return ModelList(data=[self._model])

    async def find_model(self, model: str) -> Model:
        """Describe a model."""
        if model != self._model.id:
            raise unknown_model(model)
        return self._model

    async def complete(self, body: ChatRequest, flow: FlowDep, request: Request) -> Response:
        """Answer a conversation, at once or as a stream of chunks."""
        if body.model != self._model.id:
            raise unknown_model(body.model)
        # A full queue is refused now; without this the call would wait for a place.
        flow.check_entry(timeout_sec=FIRST_TIMEOUT)
        question = Question([message.message() for message in body.messages], body.sampling())
        completion = Completion(question, self._model.id)
        if not body.stream:
            await flow.process(question, ANSWER_TIMEOUT)
            return JSONResponse(completion.whole().model_dump())
        stream = flow.stream(question, FIRST_TIMEOUT, TOKEN_TIMEOUT)
        events = completion.events(stream, body.wants_usage())
        return await stream_response(request, events, EventSourceResponse)


class Completion:
    """The JSON of an answer.

    Args:
        question: The question; it has the answer when it was processed.
        model: The name of the model.
    """

    def __init__(self, question: Question, model: str) -> None:
        self._question = question
        self._model = model
        self._id = f"chatcmpl-{question.task_id}"
        self._created = int(time.time())

    def whole(self) -> ChatCompletion:
        """Return the whole answer."""
        reason = self._question.finish_reason
        assert reason is not None
        choice = Choice(message=AnswerMessage(content=self._question.answer), finish_reason=reason)
        return ChatCompletion(
            id=self._id, created=self._created, model=self._model, choices=[choice], usage=self._usage()
        )

    async def events(
        self, stream: FlowStream[str], with_usage: bool
    ) -> AsyncIterator[ChatCompletionChunk | ProblemBody | ServerSentEvent]:
        """Yield the data of the events of a streamed answer. Its end ends the stream.

        Args:
            stream: The texts.
            with_usage: Whether a chunk with the numbers of tokens comes at the end.

        Raises:
            Exception: What has failed before the first text.
        """
        async with stream:
            await stream.wait()
            try:
                yield self._chunk({"role": "assistant", "content": ""})
                async for text in stream:
                    yield self._chunk({"content": text})
                yield self._chunk({}, self._question.finish_reason)
                if with_usage:
                    yield self._piece([], self._usage())
                yield ServerSentEvent(raw_data="[DONE]")
            except Exception as exc:
                # The errors of a flow describe themselves; for others the traceback is needed.
                log.warning("an answer was cut off: %s", exc, exc_info=not isinstance(exc, AqueductError))
                # The head was sent with status 200. An event with an error makes OpenAI's clients raise one.
                yield ProblemBody(error=Problem(message=BROKEN, type="server_error"))

    def _chunk(self, delta: dict[str, str], reason: FinishReason | None = None) -> ChatCompletionChunk:
        return self._piece([ChunkChoice(delta=delta, finish_reason=reason)])

    def _piece(self, choices: list[ChunkChoice], usage: Usage | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _usage(self) -> Usage:
        prompt, completion = self._question.prompt_tokens, self._question.completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)

