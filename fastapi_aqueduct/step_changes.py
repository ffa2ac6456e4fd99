"""Changes of the steps of a flow that runs."""

from __future__ import annotations

from .engine.configuration import Configuration
from .engine.interface import Engine
from .engine.lifecycle import Lifecycle
from .engine.trial import ShadowControl, TrialControl
from .handler import BaseTaskHandler
from .step import FlowStep


class StepChanges:
    """Changes steps in the engine of a flow, and keeps the handlers that they have then for its next start.

    The methods raise `NotRunningError` while the flow does not run.

    Args:
        lifecycle: Has the engine.
        configuration: Has the steps as declared.
    """

    def __init__(self, lifecycle: Lifecycle, configuration: Configuration) -> None:
        self._lifecycle = lifecycle
        self._configuration = configuration

    def declared(self, position: int) -> FlowStep:
        """Return a step with its present handler and numbers."""
        return self._configuration.step(position)

    def keep(self, position: int, handler: BaseTaskHandler) -> None:
        """Let a step have a handler from now on, also when the flow is started anew."""
        self._configuration.keep(position, handler)

    async def replace(self, position: int, handler: BaseTaskHandler, is_in_place: bool) -> None:
        """Replace the handler of a step; see `Step.replace`."""
        await self._engine().replace(position, handler, is_in_place)
        self.keep(position, handler)

    async def restart(self, position: int, is_in_place: bool) -> None:
        """Replace the workers of a step by fresh ones; see `Step.restart`."""
        await self._engine().restart(position, is_in_place)

    async def canary(self, position: int, handler: BaseTaskHandler, share: float) -> TrialControl:
        """Give a share of the tasks of a step to one more worker; see `Step.canary`."""
        return await self._engine().canary(position, handler, share)

    async def shadow(self, position: int, handler: BaseTaskHandler, keep: int) -> ShadowControl:
        """Give copies of the tasks of a step to one more worker; see `Step.shadow`."""
        return await self._engine().shadow(position, handler, keep)

    async def resize(self, position: int, size: int) -> None:
        """Give a step another number of workers; see `Step.scale`."""
        await self._engine().resize(position, size)

    def _engine(self) -> Engine:
        return self._lifecycle.running_engine(counts=False)
