"""The handler with its n-gram model, in a worker."""

from __future__ import annotations

import asyncio

import pytest

from example_app.chat.model import CONTEXT, Message, PromptTooLong, Sampling
from example_app.chat.pipeline import Question, build_flow
from example_app.chat.settings import Settings
from fastapi_aqueduct import Flow

from ..support import DEADLINE, eventually, running
from .questions import LONG_SEED, LONG_TEMPERATURE, QUESTION, answer_to

ENDLESS = Sampling(seed=LONG_SEED, temperature=LONG_TEMPERATURE)


def flow_of(step_time: float) -> Flow:
    return build_flow(Settings("alice-trigram", answers=3, step_time=step_time))


def asked(sampling: Sampling) -> Question:
    return Question([Message("user", QUESTION)], sampling)


async def test_answers_in_one_batch_are_those_given_alone() -> None:
    samplings = [Sampling(seed=seed, max_tokens=seed * 4) for seed in range(1, 8)]
    async with running(flow_of(step_time=0.0)) as flow:

        async def streamed(sampling: Sampling) -> Question:
            question = asked(sampling)
            texts = [text async for text in flow.stream(question, DEADLINE)]
            assert "".join(texts) == question.answer and len(texts) == question.completion_tokens
            return question

        questions = await asyncio.gather(*map(streamed, samplings))
        assert [(one.answer, one.completion_tokens) for one in questions] == [answer_to(one) for one in samplings]
        assert {one.finish_reason for one in questions} == {"length"}
        assert {one.prompt_tokens for one in questions} == {6}
        whole = await flow.process(asked(samplings[-1]), DEADLINE)
        assert whole.answer == questions[-1].answer


async def test_a_question_joins_one_that_is_being_answered_and_one_that_leaves_ends() -> None:
    async with running(flow_of(step_time=0.01)) as flow:
        async with flow.stream(asked(ENDLESS), DEADLINE) as long:
            await anext(long)
            short = await flow.process(asked(Sampling(max_tokens=3)), DEADLINE)
            assert short.completion_tokens == 3
            assert flow.statistics().in_flight == 1  # the long one goes on
        await eventually(lambda: flow.statistics().in_flight == 0)
        assert (flow.statistics().completed, flow.statistics().cancelled) == (1, 1)


async def test_a_conversation_that_is_too_long_fails_alone() -> None:
    async with running(flow_of(step_time=0.01)) as flow:
        good = asyncio.create_task(flow.process(asked(Sampling(seed=1, max_tokens=20)), DEADLINE))
        bad = Question([Message("user", "word " * CONTEXT)], Sampling())
        with pytest.raises(PromptTooLong, match=str(CONTEXT)):
            await flow.process(bad, DEADLINE)
        assert (await good).completion_tokens == 20
