"""StandIn: takes the place of a handler that runs in an actor. Its process is a worker as any other for the flow."""

from __future__ import annotations

from typing import Any

from ....exceptions import UsageError
from ....handler import BaseTaskHandler
from ....placement.ray_actor import RayActor
from .link import Link
from .runner import RemoteRunner, RemoteWorker


class StandIn(BaseTaskHandler):
    """Takes the place of a handler that runs in an actor.

    Args:
        program: What the worker in the actor runs, pickled; it is not unpickled here.
        placement: Where the actor runs.
        kind: The class of the actor.
    """

    def __init__(self, program: bytes, placement: RayActor, kind: type) -> None:
        self._program = program
        self._kind = kind
        self._placement = placement
        self._worker: RemoteWorker
        self._link: Link

    def join(self, worker: RemoteWorker) -> None:
        """Set what exchanges frames with the API process, before `on_start`."""
        worker.relayed = []
        self._worker = worker

    def on_start(self) -> None:
        """Make the actor, and wait until its worker is ready; see `Link.start`."""
        self._link = Link(self._worker, self._placement)
        self._link.start(self._kind, self._program)

    def handle(self, *tasks: Any, **_: Any) -> None:
        """Not called: `RemoteRunner` passes tasks on as they are."""
        raise UsageError("a stand-in handles no tasks itself")

    def make_runner(self) -> RemoteRunner:
        """Make what passes tasks on."""
        return RemoteRunner(self._worker, self._link)

    def on_stop(self) -> None:
        """Stop the worker in the actor, which calls the handler's own `on_stop`, and end the actor."""
        self._link.stop()
