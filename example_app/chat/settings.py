"""The settings of the chat, from variables of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

ModelName = Literal["smollm2-135m-instruct", "alice-trigram"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the chat.

    Attributes:
        model: The model that answers; ``CHAT_MODEL``.
        answers: Answers that it works on at once; ``CHAT_ANSWERS``.
        queue_size: Questions that may wait, before others are refused; ``CHAT_QUEUE_SIZE``.
        step_time: Seconds that a step of the n-gram model takes at least, as that of a large model does: without it an
            answer is complete before it can be watched or stopped; ``CHAT_STEP_TIME``.
    """

    model: ModelName = "smollm2-135m-instruct"
    answers: int = 4
    queue_size: int = 32
    step_time: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Raises:
            ValueError: A variable has an unusable value.
        """
        given = {
            name: convert(environment[key])
            for name, key, convert in (
                ("model", "CHAT_MODEL", _model_name),
                ("answers", "CHAT_ANSWERS", int),
                ("queue_size", "CHAT_QUEUE_SIZE", int),
                ("step_time", "CHAT_STEP_TIME", float),
            )
            if key in environment
        }
        return cls(**given)  # type: ignore[arg-type]


def _model_name(value: str) -> str:
    if value not in get_args(ModelName):
        raise ValueError(f"CHAT_MODEL must be one of {', '.join(get_args(ModelName))}, got {value!r}")
    return value
