"""The handler with the real weights."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from example_app.chat.model import CONTEXT, Message, PromptTooLong, Sampling
from example_app.chat.pipeline import Question, build_flow
from example_app.chat.settings import Settings

from ..support import eventually, pids, running

TIMEOUT = 150.0
MAX_TOKENS = 16
GREEDY = Sampling(temperature=0, max_tokens=MAX_TOKENS)


COUNT = "Count to ten: one, two"
LONG = "Write a very long story.", Sampling(seed=1)


def asked(text: str, sampling: Sampling = GREEDY) -> Question:
    return Question([Message("user", text)], sampling)


async def test_a_language_model_answers() -> None:
    async with running(build_flow(Settings(answers=2))) as flow:
        question = asked(COUNT)
        texts = [text async for text in flow.stream(question, TIMEOUT)]
        assert "three, four" in question.answer and "".join(texts) == question.answer and len(texts) > 10
        assert (question.finish_reason, question.completion_tokens) == ("length", MAX_TOKENS)
        assert question.prompt_tokens > 10
        with pytest.raises(PromptTooLong, match="context"):
            await flow.process(asked("word " * CONTEXT * 2), TIMEOUT)
        async with flow.stream(asked(*LONG), TIMEOUT) as story:
            await anext(story)
            stopped = await flow.process(asked(COUNT, Sampling(temperature=0, stop=("four",))), TIMEOUT)
            assert (stopped.finish_reason, stopped.answer) == ("stop", question.answer.partition("four")[0])
            assert flow.statistics().in_flight == 1  # the story goes on
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert flow.statistics().cancelled == 1
        check_process(pids(flow)[0])
        # Both places of llama.cpp are free again.
        async with flow.stream(asked(*LONG), TIMEOUT) as one, flow.stream(asked(*LONG), TIMEOUT) as other:
            await asyncio.gather(anext(one), anext(other))
            assert flow.statistics().in_flight == 2
        await eventually(lambda: flow.statistics().in_flight == 0)


def check_process(pid: int) -> None:
    """SIGTERM ends the worker, though llama.cpp handles it, and its HTTP server cannot be reached."""
    caught = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]
    assert not int(caught, 16) >> (signal.SIGTERM - 1) & 1
    sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    for connection in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        assert f"socket:[{connection.split()[9]}]" not in sockets
    for connection in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, _, _, _, inode, *names = connection.split()
        assert not names or f"socket:[{inode}]" not in sockets or not Path(names[0]).exists()
