"""The handlers that the status page may put in the place of those that serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...exceptions import ConfigurationError, got
from ...flow import Flow
from ...handler import BaseTaskHandler
from ...steps import CalledInWorkers, Step

Offered = Mapping[Step, Mapping[str, BaseTaskHandler | CalledInWorkers]]
"""By the step, and by the name that the page shows."""


class Replacements:
    """The handlers that the code of the application offers, by step and name. A request can only choose among them.

    Args:
        offered: The handlers; None: there are none.
        flows: The flows of the application.

    Raises:
        ConfigurationError: A step is of another flow, or a handler cannot take the place of the present one.
    """

    def __init__(self, offered: Offered | None, flows: Sequence[Flow]) -> None:
        self._offered = {} if offered is None else dict(offered)
        known = {step for flow in flows for step in flow.steps.values()}
        for step, handlers in self._offered.items():
            if step not in known:
                raise ConfigurationError(
                    f"replacements of Aqueduct needs steps of its flows as keys, {got(step)}: "
                    'replacements={flow.steps["classify"]: {"large": Classify("large.onnx")}}'
                )
            for handler in handlers.values():
                step.check(handler)

    def names(self, step: Step) -> Sequence[str]:
        """List the names of the handlers for a step."""
        return tuple(self._offered.get(step, ()))

    def find(self, step: Step, name: str) -> BaseTaskHandler | CalledInWorkers | None:
        """Return the handler of a name; None if there is none."""
        return self._offered.get(step, {}).get(name)
