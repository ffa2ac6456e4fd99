"""A trigram model of a book, which needs no weights: it is trained when its worker starts."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

from example_app.chat.model import CONTEXT, Answer, Message, PromptTooLong, Sampling
from example_app.chat.stop_text import StopText

BOOK = Path(__file__).parent / "text" / "alice.txt"

END = "\n\n"
"""The token at the end of a paragraph, and of an answer."""

SHORTEST = 60
"""Tokens before which no answer ends: most paragraphs of the book are short."""

TOKEN = re.compile(r"\n\n| ?\w+(?:[’'-]\w+)*| ?[^\w\s]")
"""A word or a punctuation mark with the space before it, so that tokens are joined without rules."""

Probabilities = npt.NDArray[np.float64]


@dataclass(slots=True)
class NgramAnswer(Answer):
    """An answer of the n-gram model.

    Attributes:
        sampling: How its tokens are chosen.
        tokens: The last tokens of the conversation, and those of the answer.
        random: Chooses them.
        text: Looks for stop texts.
    """

    sampling: Sampling = field(default_factory=Sampling)
    tokens: list[int] = field(default_factory=list)
    random: Random = field(default_factory=Random)
    text: StopText = field(default_factory=StopText)


class NgramModel:
    """Predicts a token from the two before it, with Witten and Bell's interpolation of trigrams, bigrams and unigrams.

    Args:
        text: What it learns from; paragraphs are separated by empty lines.
        order: Tokens of the longest n-grams.
        step_time: Seconds that a step takes at least.
    """

    def __init__(self, text: str, order: int = 3, step_time: float = 0.0) -> None:
        self._step_time = step_time
        tokens = [END, *TOKEN.findall(text)]
        self._vocabulary = sorted(set(tokens))
        self._ids = {token: id for id, token in enumerate(self._vocabulary)}
        ids = [self._ids[token] for token in tokens]
        self._followers: list[dict[tuple[int, ...], Counter[int]]] = []
        for length in range(1, order):
            followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
            for start in range(len(ids) - length):
                followers[tuple(ids[start : start + length])][ids[start + length]] += 1
            self._followers.append(dict(followers))
        counts = np.bincount(ids, minlength=len(self._vocabulary))
        self._unigrams: Probabilities = (counts + 1.0) / (counts.sum() + len(counts))

    @property
    def vocabulary(self) -> Sequence[str]:
        """The tokens that it knows."""
        return self._vocabulary

    def tokenize(self, text: str) -> list[int | None]:
        """Return the tokens of a text by their places in the vocabulary; None for one that is not in it."""
        return [self._ids.get(token) for token in TOKEN.findall(text)]

    def predict(self, tokens: Sequence[int]) -> Probabilities:
        """Return the probability of each token of the vocabulary to come next."""
        likely = self._unigrams.copy()
        for length, followers in enumerate(self._followers, 1):
            found = followers.get(tuple(tokens[-length:])) if len(tokens) >= length else None
            if found is None:
                break
            # The share of the shorter context grows with the number of different tokens that have followed this one.
            weight = found.total() + len(found)
            likely *= len(found) / weight
            likely[list(found)] += np.fromiter(found.values(), float) / weight
        return likely

    def begin(self, messages: Sequence[Message], sampling: Sampling) -> NgramAnswer:
        """Begin an answer: it continues the last words that the model knows, after a sentence in a new paragraph."""
        prompts = [self.tokenize(message.content) for message in messages]
        answer = NgramAnswer(
            prompt_tokens=sum(map(len, prompts)),
            sampling=sampling,
            random=Random(sampling.seed),
            text=StopText(sampling.stop),
        )
        answer.tokens = _known_at_the_end(prompts[-1])
        if not answer.tokens or messages[-1].content.rstrip().endswith((".", "!", "?")):
            answer.tokens.append(self._ids[END])
        if answer.prompt_tokens >= CONTEXT:
            answer.error = PromptTooLong(
                f"the conversation has {answer.prompt_tokens} tokens, and the model has a context of {CONTEXT}"
            )
        return answer

    def step(self, answers: Sequence[NgramAnswer]) -> list[str]:
        """Make each answer one token longer."""
        time.sleep(self._step_time)
        return ["" if answer.error else self._extend(answer) for answer in answers]

    def end(self, answer: NgramAnswer) -> None:
        """Do nothing: an answer holds nothing."""

    def close(self) -> None:
        """Do nothing: the model holds nothing."""

    def _extend(self, answer: NgramAnswer) -> str:
        likely = self.predict(answer.tokens)
        if answer.completion_tokens < SHORTEST:
            likely[self._ids[END]] = 0.0
        token = choose(likely, answer.sampling, answer.random)
        answer.tokens.append(token)
        answer.completion_tokens += 1
        if token == self._ids[END]:
            answer.finish_reason = "stop"
            return answer.text.rest()
        piece = self._vocabulary[token]
        text = answer.text.add(piece.lstrip() if answer.completion_tokens == 1 else piece)
        limit = min(answer.sampling.max_tokens or CONTEXT, CONTEXT - answer.prompt_tokens)
        if answer.text.has_stopped:
            answer.finish_reason = "stop"
        elif answer.completion_tokens >= limit:
            answer.finish_reason = "length"
            text += answer.text.rest()
        return text


def choose(likely: Probabilities, sampling: Sampling, random: Random) -> int:
    """Choose a token.

    Args:
        likely: The probability of each.
        sampling: The temperature, and the share of the probability that is chosen from.
        random: Chooses.
    """
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    if temperature == 0.0:
        return int(likely.argmax())
    sharpened = (likely / likely.max()) ** (1.0 / temperature)
    order = np.argsort(-sharpened, kind="stable")
    sums = np.cumsum(sharpened[order])
    share = 1.0 if sampling.top_p is None else sampling.top_p
    last = min(int(np.searchsorted(sums, share * sums[-1])), len(sums) - 1)
    place = int(np.searchsorted(sums, random.random() * sums[last], side="right"))
    return int(order[min(place, last)])


def _known_at_the_end(tokens: Sequence[int | None]) -> list[int]:
    known: list[int] = []
    for token in reversed(tokens):
        if token is None:
            break
        known.insert(0, token)
    return known
