"""The interface of a language model: it makes several answers longer in one step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

CONTEXT = 2048
"""The most tokens of a conversation, with the answer."""

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are chosen.

    Attributes:
        max_tokens: The most tokens of the answer; None: as many as the context has space for.
        temperature: 0: always the most likely token; 1: as likely as the model says; None: what suits the model.
        top_p: Only the most likely tokens that have this probability together are chosen from; None: as for
            `temperature`.
        stop: Texts at which the answer ends; they are not part of it.
        seed: Makes the choices repeatable; None: other choices each time.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(slots=True)
class Answer:
    """An answer under way.

    Attributes:
        prompt_tokens: Tokens of the conversation.
        completion_tokens: Tokens of the answer.
        finish_reason: Why the answer is complete; None while it is not.
        error: Why it cannot be completed.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: Exception | None = field(default=None, repr=False)


class ModelError(Exception):
    """The model could not answer."""


class PromptTooLong(ModelError):
    """The conversation has more tokens than the context of the model."""


A = TypeVar("A", bound=Answer)


class LanguageModel(Protocol[A]):
    """A language model that works on several answers at once."""

    def begin(self, messages: Sequence[Message], sampling: Sampling) -> A:
        """Begin an answer. What is wrong with the conversation is the ``error`` of the answer."""

    def step(self, answers: Sequence[A]) -> list[str]:
        """Make the answers longer, and return what each has got, which may be nothing."""

    def end(self, answer: A) -> None:
        """End an answer, which need not be complete."""

    def close(self) -> None:
        """Release what the model holds."""
