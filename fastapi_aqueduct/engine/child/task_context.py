"""TaskContext: the context variables and the traces of callers, in a worker."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any

from ..wire.extras import unpack_extras
from ..wire.frames import Envelope
from .trace_context import attach_trace


class TaskContext:
    """Sets context variables to the values that they had where the tasks in hand were sent, and attaches their trace.

    Args:
        variables: The declared variables of the flow, as this process has them.
    """

    def __init__(self, variables: Sequence[ContextVar[Any]]) -> None:
        self._variables = variables

    def base(self) -> Context:
        """Return a copy of the present context in which no declared variable is set, whatever `on_start` has set."""
        base = Context()
        declared = set(self._variables)
        for variable, value in copy_context().items():
            if variable not in declared:
                base.run(variable.set, value)
        return base

    def enter(self, envelopes: Sequence[Envelope]) -> list[Token[Any]]:
        """Do what `set` and `attach` do."""
        return self.set(envelopes) + self.attach(envelopes)

    def attach(self, envelopes: Sequence[Envelope]) -> list[Token[Any]]:
        """Attach, in the present context, the trace of the first task that has a recorded one.

        Args:
            envelopes: The tasks.

        Returns:
            What `reset` needs.
        """
        extras = [envelope.content.extras for envelope in envelopes if envelope.content.extras]
        traces = [trace for data in extras if (trace := unpack_extras(data).trace)]
        return [attach_trace(traces)] if traces else []

    def set(self, envelopes: Sequence[Envelope]) -> list[Token[Any]]:
        """Set, in the present context, each variable whose value is the same for all tasks.

        Args:
            envelopes: The tasks.

        Returns:
            What `reset` needs.

        Raises:
            Exception: A value cannot be unpickled.
        """
        if not self._variables:
            return []
        first, *others = [unpack_extras(data).values for data in {envelope.content.extras for envelope in envelopes}]
        tokens = []
        for index, variable in enumerate(self._variables):
            value = first.get(index)
            if value is not None and all(other.get(index) == value for other in others):
                tokens.append(variable.set(pickle.loads(value)))
        return tokens

    def values(self) -> dict[str, Any]:
        """Return the values of the variables in the present context by their names; None for one without a value."""
        return {variable.name: _value_of(variable) for variable in self._variables}


def reset(tokens: list[Token[Any]]) -> None:
    """Undo `TaskContext.set` or `TaskContext.enter`, in the same context."""
    while tokens:
        token = tokens.pop()
        token.var.reset(token)


def _value_of(variable: ContextVar[Any]) -> Any:
    try:
        return variable.get()
    except LookupError:
        return None
