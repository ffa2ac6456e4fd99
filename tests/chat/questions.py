"""What the tests ask, and how they watch what becomes of it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import httpx
from openai.types.chat import ChatCompletionMessageParam

from example_app.chat.model import Message, Sampling
from example_app.chat.ngram import BOOK, NgramModel
from example_app.chat.settings import ModelName

from ..support import DEADLINE, wait_until

MODEL: ModelName = "alice-trigram"
STEP_TIME = 0.02
ANSWERS = 3
QUEUE_SIZE = 1

QUESTION = "Tell me a long story."
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]

LONG_SEED, LONG_TEMPERATURE = 5, 2.0
"""They make the n-gram model answer `QUESTION` at a length of more than `LONG` tokens; a test says so."""

LONG = 500


@cache
def trained() -> NgramModel:
    """Return the model that the service has."""
    return NgramModel(BOOK.read_text(encoding="utf-8"))


def answer_to(sampling: Sampling, question: str = QUESTION) -> tuple[str, int]:
    """Return the answer that the model gives alone, and its number of tokens."""
    model = trained()
    answer = model.begin([Message("user", question)], sampling)
    text = ""
    while answer.finish_reason is None:
        text += model.step([answer])[0]
    return text, answer.completion_tokens


PRESENT = ("in_flight", "queue_length")


class Tally:
    """The tasks of an idle service, as its metrics count them."""

    def __init__(self, url: str) -> None:
        self._url = url
        assert wait_until(lambda: self.read()["in_flight"] == 0, DEADLINE)
        self._before = self.read()

    def wait_until(self, condition: Callable[[dict[str, int]], bool]) -> bool:
        """Wait until a condition is true of the tasks in flight and of those that have ended since the beginning."""
        return wait_until(lambda: condition(self._since()), DEADLINE)

    def _since(self) -> dict[str, int]:
        now = self.read()
        return {name: count if name in PRESENT else count - self._before[name] for name, count in now.items()}

    def read(self) -> dict[str, int]:
        """Return the numbers of now."""
        metrics = httpx.get(f"{self._url}/metrics", verify=False).text
        tasks = re.findall(r'^aqueduct_tasks_total\{.*outcome="(\w+)".*\} (\S+)$', metrics, re.MULTILINE)
        present = re.findall(r"^aqueduct_(?:tasks_)?(in_flight|queue_length)\{.*\} (\S+)$", metrics, re.MULTILINE)
        return {name: int(float(count)) for name, count in tasks + present}


def was_cancelled(tasks: dict[str, int]) -> bool:
    """Tell whether one task was cancelled, and none is under way."""
    return tasks["cancelled"] == 1 and tasks["in_flight"] == 0


def in_flight(count: int) -> Callable[[dict[str, int]], bool]:
    """Return the condition that ``count`` tasks are under way."""
    return lambda tasks: tasks["in_flight"] == count


@contextmanager
def long_answers(url: str, count: int) -> Iterator[None]:
    """Ask an idle service for long answers, the last of which may have to wait; all are left at the end."""
    tally = Tally(url)
    content = json.dumps(
        {"model": MODEL, "messages": MESSAGES, "seed": LONG_SEED, "temperature": LONG_TEMPERATURE}
    ).encode()
    head = f"Host: test\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    address = httpx.URL(url)
    with ExitStack() as clients:
        for number in range(1, count + 1):
            # One after the other: of several at once the queue would refuse some before any reaches the worker.
            client = clients.enter_context(socket.create_connection((address.host, address.port or 80)))
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + content)
            assert tally.wait_until(in_flight(number))
        yield
