"""The handlers that were put in while a pipeline served: the next pipeline process starts with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..wire.frames import ProtocolError
from .messages import pack_message, unpack_message
from .packed_handler import PackedHandler
from .plan import Plan


class Replacement(NamedTuple):
    """Another handler for a step.

    Attributes:
        step: Index of the step.
        version: The version of the handler.
        handler: The handler.
    """

    step: int
    version: int
    handler: PackedHandler

    def pack(self) -> bytes:
        """Return the payload of a frame of kind REPLACED."""
        return pack_message(self)

    @staticmethod
    def unpack(payload: bytes) -> Replacement:
        """Read the payload of a frame of kind REPLACED.

        Raises:
            ProtocolError: It is none.
        """
        return unpack_message(payload, Replacement)


class Replacements:
    """Keeps the last handler of each step that was put in, in an API process.

    Args:
        steps: Number of steps.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._by_step: dict[int, Replacement] = {}

    def note(self, payload: bytes) -> None:
        """Keep the handler of a frame of kind REPLACED.

        Raises:
            ProtocolError: It is none.
        """
        replacement = Replacement.unpack(payload)
        if not 0 <= replacement.step < self._steps:
            raise ProtocolError(f"there is no step {replacement.step}")
        self._by_step[replacement.step] = replacement

    def newer_than(self, versions: Sequence[int]) -> list[Replacement]:
        """List the handlers of a later version than a pipeline process has.

        Args:
            versions: The version of each step there.
        """
        return [kept for kept in self._by_step.values() if kept.version > versions[kept.step]]

    def apply(self, plan: Plan) -> Plan:
        """Return a plan with these handlers."""
        for step, version, handler in self._by_step.values():
            plan = plan.with_handler(step, handler, version)
        return plan
