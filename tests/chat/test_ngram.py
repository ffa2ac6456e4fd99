"""The n-gram model: a real one, which knows its book."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest

from example_app.chat.model import CONTEXT, Message, PromptTooLong, Sampling
from example_app.chat.ngram import BOOK, SHORTEST, NgramModel
from example_app.chat.stop_text import StopText

from .questions import LONG, LONG_SEED, LONG_TEMPERATURE, answer_to, trained


@pytest.mark.parametrize("context", ["", "Alice", "said the Caterpillar", "‘Oh dear"])
def test_the_probabilities_of_all_tokens_are_1_together(context: str) -> None:
    tokens = [token for token in trained().tokenize(context) if token is not None]
    likely = trained().predict(tokens)
    assert likely.min() > 0
    assert likely.sum() == pytest.approx(1)


def test_it_predicts_pages_that_it_has_not_read() -> None:
    text = BOOK.read_text(encoding="utf-8")
    model = NgramModel(text[: len(text) * 9 // 10])
    unigrams = NgramModel(text[: len(text) * 9 // 10], order=1)
    unseen = text[len(text) * 9 // 10 :]
    assert perplexity(model, unseen) < perplexity(unigrams, unseen) < len(model.vocabulary) / 5
    assert perplexity(model, text[:10_000]) < 20


def perplexity(model: NgramModel, text: str) -> float:
    """Return how many equally likely tokens the model chooses from, on average; unknown ones do not count."""
    known: list[int] = []
    logs: list[float] = []
    for token in model.tokenize(text):
        if token is None:
            known.clear()
        else:
            logs.append(math.log(model.predict(known[-2:])[token]))
            known.append(token)
    return math.exp(-sum(logs) / len(logs))


def test_a_seed_repeats_an_answer() -> None:
    one = answer_to(Sampling(seed=1))
    assert answer_to(Sampling(seed=1)) == one != answer_to(Sampling(seed=2))
    assert one[1] >= SHORTEST


def test_the_temperature_0_leaves_no_choice() -> None:
    likeliest = answer_to(Sampling(temperature=0, seed=1, max_tokens=20))
    assert answer_to(Sampling(temperature=0, seed=2, max_tokens=20)) == likeliest
    assert answer_to(Sampling(top_p=0, seed=2, max_tokens=20)) == likeliest
    assert answer_to(Sampling(top_p=0.9, seed=2, max_tokens=20)) != likeliest


def test_an_answer_continues_a_sentence() -> None:
    text, _ = answer_to(Sampling(temperature=0, max_tokens=3), "Tell me about the Cheshire")
    assert text.startswith("Cat")


def test_the_long_answer_of_the_tests_is_long() -> None:
    assert answer_to(Sampling(seed=LONG_SEED, temperature=LONG_TEMPERATURE))[1] > LONG


def test_a_conversation_that_is_too_long_fails() -> None:
    answer = trained().begin([Message("user", "word " * CONTEXT)], Sampling())
    assert isinstance(answer.error, PromptTooLong) and str(CONTEXT) in str(answer.error)


@pytest.mark.parametrize("size", range(1, 12))
def test_a_stop_text_is_found_however_it_is_cut_into_pieces(size: int) -> None:
    text = "one, two, three; four"
    for stops, expected in [
        (("three",), "one, two, "),
        (("thread", "four"), "one, two, three; "),
        ((", th", "two"), "one, "),
        (("thrill",), text),
    ]:
        filter = StopText(stops)
        passed = "".join(filter.add(text[start : start + size]) for start in range(0, len(text), size))
        assert filter.has_stopped == (expected != text)
        assert (passed if filter.has_stopped else passed + filter.rest()).startswith(expected)


def test_text_is_held_back_only_while_it_may_become_a_stop_text() -> None:
    filter = StopText(("END.",))
    assert [filter.add(piece) for piece in ("The E", "NEMY", " EN", "D!")] == ["The ", "ENEMY", " ", "END!"]
    assert list(accumulate([filter.rest(), filter.rest()])) == ["", ""]
