"""The JSON of OpenAI's API for chat completions: what this service reads and writes of it."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from example_app.chat.model import FinishReason, Message, Sampling

MAX_CHARACTERS = 32_000
"""The most characters of a text: more than the context of a model holds."""

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


def _checked_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("the value must be a number")
    return value


NUMBER = BeforeValidator(_checked_number)
"""Makes an integer one as JSON Schema defines it: also 1.0, which strict validation refuses, but not true."""


class TextPart(BaseModel):
    """A part of a message; parts of other types, such as images, are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=100)]
    name: str | None = None

    def message(self) -> Message:
        """Return the message as a model gets it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, content)


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for a completion. What this service cannot do, such as tools, is refused and not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, strict=False), NUMBER] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, strict=False), NUMBER] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    seed: Annotated[int, Field(strict=False), NUMBER] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1, strict=False), NUMBER] | None = None
    user: str | None = None

    def sampling(self) -> Sampling:
        """Return how the tokens are to be chosen."""
        return Sampling(
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
        )

    def wants_usage(self) -> bool:
        """Tell whether a streamed answer ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """The message that the model has made."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only answer to a request."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ChunkChoice(BaseModel):
    """The only answer to a request, in a chunk.

    Attributes:
        delta: What the chunk adds to the fields of the message.
    """

    index: int = 0
    delta: dict[str, str]
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(BaseModel):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """A model of this service."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models of this service."""

    object: Literal["list"] = "list"
    data: list[Model]


class Problem(BaseModel):
    """What is wrong.

    Attributes:
        message: A text for people.
        type: ``invalid_request_error`` or ``server_error``.
        param: The part of the request that is wrong.
        code: A name for programs, such as ``model_not_found``.
    """

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemBody(BaseModel):
    """The body of an answer to a request that failed."""

    error: Problem
