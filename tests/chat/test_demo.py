"""The demonstration: a question through OpenAI's client."""

from __future__ import annotations

import re

import pytest

from example_app.chat.demo import MAX_TOKENS, QUESTION, ask
from example_app.chat.settings import Settings
from example_app.service import Service


def test_it_prints_a_question_and_its_answer(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(service)
    question, answer, times = capsys.readouterr().out.strip().split("\n\n")
    assert question == QUESTION and len(answer) > 100
    tokens = re.match(r"(\d+) tokens in [\d.]+ s, the first after", times)
    assert tokens is not None and 0 < int(tokens[1]) <= MAX_TOKENS


def test_it_says_when_there_is_no_answer(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    class Elsewhere(Service):
        def __init__(self) -> None:
            self.url = service.url + "/elsewhere"

    assert not ask(Elsewhere())
    assert "Not Found" in capsys.readouterr().err


def test_the_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment({"CHAT_MODEL": "alice-trigram", "CHAT_ANSWERS": "8", "CHAT_STEP_TIME": "0.5"})
    assert settings == Settings("alice-trigram", answers=8, step_time=0.5)
    assert Settings.from_environment({}) == Settings()
    with pytest.raises(ValueError, match="CHAT_MODEL must be one of smollm2-135m-instruct, alice-trigram, got 'gpt'"):
        Settings.from_environment({"CHAT_MODEL": "gpt"})
