"""CallerContext: packs the context variables of the caller of a flow."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from ...exceptions import TaskNotPicklable
from ..wire.extras import pack_extras

_UNSET = object()


class CallerContext:
    """Packs the values that declared context variables have in the present context.

    Args:
        variables: The declared variables.
    """

    def __init__(self, variables: Sequence[ContextVar[Any]]) -> None:
        self._variables = variables

    def pack(self) -> bytes:
        """Return `Encoded.extras` of a task of the present caller; empty when no variable is set.

        Raises:
            TaskNotPicklable: A value cannot be pickled.
        """
        values: dict[int, bytes] = {}
        for index, variable in enumerate(self._variables):
            value = variable.get(_UNSET)
            if value is not _UNSET:
                values[index] = _pickle(variable, value)
        return pack_extras(values)


def _pickle(variable: ContextVar[Any], value: Any) -> bytes:
    try:
        return pickle.dumps(value, 5)
    except Exception as exc:  # a user's object may raise any error
        raise TaskNotPicklable(
            f"the value of context variable {variable.name}, of type {type(value).__qualname__}, cannot travel to "
            f"another process: {exc}; leave the variable out of `context` of the flow, or set a value that can be "
            "pickled"
        ) from exc
