"""The pipeline of the chat: one step with continuous batching, so that a question joins those that are being answered.

Worker processes import this module, so it does not import a web framework. The handler imports its model in
``on_start``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from example_app.chat.model import Answer, FinishReason, LanguageModel, Message, Sampling
from example_app.chat.settings import Settings
from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

STOP_TIMEOUT = 10.0
"""Seconds that answers have to end when the service stops: less than `example_app.service` waits for it."""


@dataclass
class Question(BaseTask):
    """A conversation whose next message is wanted.

    Attributes:
        messages: The conversation.
        sampling: How the tokens of the answer are chosen.
        answer: The whole answer.
        finish_reason: Why it ends.
        prompt_tokens: Tokens of the conversation.
        completion_tokens: Tokens of the answer.
    """

    messages: Sequence[Message]
    sampling: Sampling
    answer: str = field(default="", init=False)
    finish_reason: FinishReason | None = field(default=None, init=False)
    prompt_tokens: int = field(default=0, init=False)
    completion_tokens: int = field(default=0, init=False)

    def follow(self, answer: Answer, text: str) -> None:
        """Send what the answer has got, and finish with it."""
        if text:
            self.answer += text
            self.emit(text)
        if answer.error is not None:
            self.fail(answer.error)
        elif answer.finish_reason is not None:
            self.finish_reason = answer.finish_reason
            self.prompt_tokens, self.completion_tokens = answer.prompt_tokens, answer.completion_tokens
            self.finish()


class Reply(BaseTaskHandler):
    """Answers questions, several at once.

    Args:
        settings: Name the model.
    """

    model: LanguageModel[Any]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on_start(self) -> None:
        """Load the model."""
        if self._settings.model == "alice-trigram":
            from example_app.chat.ngram import BOOK, NgramModel

            self.model = NgramModel(BOOK.read_text(encoding="utf-8"), step_time=self._settings.step_time)
        else:
            from example_app.chat.smollm import SmolLM

            self.model = SmolLM(self._settings.answers)

    def handle(self, *tasks: Question) -> None:
        """Make all answers longer in each round, until each is complete or its caller has left."""
        answers: dict[str, Any] = {}
        try:
            for live in self.rounds(tasks):
                answers = self._match(answers, live)
                texts = self.model.step(list(answers.values()))
                for task, answer, text in zip(live, answers.values(), texts, strict=True):
                    task.follow(answer, text)
        finally:
            self._match(answers, [])

    def on_stop(self) -> None:
        """Release the model."""
        self.model.close()

    def _match(self, answers: dict[str, Any], live: Sequence[Question]) -> dict[str, Any]:
        """Begin the answers to new questions, and end those whose questions have left."""
        matched = {
            task.task_id: answers.get(task.task_id) or self.model.begin(task.messages, task.sampling) for task in live
        }
        for task_id in answers.keys() - matched.keys():
            self.model.end(answers[task_id])
        return matched


def build_flow(settings: Settings) -> Flow:
    """Make the flow of the chat."""
    step = FlowStep(Reply(settings), batch_size=settings.answers, continuous=True, name="reply")
    return Flow(step, queue_size=settings.queue_size, stop_timeout=STOP_TIMEOUT, name="chat")


def make_task() -> Question:
    """Make a task for ``fastapi-aqueduct check``."""
    return Question([Message("user", "Why is the sky blue?")], Sampling(max_tokens=32))
