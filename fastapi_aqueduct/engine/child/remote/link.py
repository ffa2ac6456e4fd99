"""Link: a stand-in's end of the connection to its actor."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from ....exceptions import AqueductError, ConfigurationError
from ....logger import log
from ....placement.ray_actor import RayActor
from ...wire.frames import Kind
from ..worker import Worker
from .message import GROUPS, PULLS, Buffer, Frames, Message, Report, package_version

if TYPE_CHECKING:  # imports Ray
    from ....placement.cluster import Actor, Cluster

ACTOR_GONE = 4
"""Exit code of a worker whose actor has ended."""

WARN_AFTER = 10.0
"""Seconds for which an actor may start before a log record says what it may wait for."""

LOG_TIME = 1.0
"""Seconds for which a worker that ends waits until its last log records are sent."""

MAX_PULL_TIME = 5.0
"""Seconds between two reports where calls run side by side."""

_LOGS = frozenset({Kind.LOG, Kind.DROPPED})
_STATES = frozenset({Kind.CHECKED, Kind.CEILING})


class FailedStart(AqueductError):
    """The worker in the actor could not start.

    Args:
        payload: The payload of its frame of kind FAILED.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload)
        self.payload = payload


class Link:
    """The connection to an actor, which ends with this process.

    Args:
        worker: Exchanges frames with the API process.
        placement: Where the actor runs.
    """

    def __init__(self, worker: Worker, placement: RayActor) -> None:
        setup = worker.setup
        self._worker = worker
        self._placement = placement
        self._inbox: SimpleQueue[Report | BaseException] = SimpleQueue()
        self._lock = threading.Lock()  # of the two that follow
        self._early: dict[int, Report | BaseException] = {}  # those that wait for an earlier one, by number
        self._noted = 0  # the number of the last one in the inbox
        self._pulls = 0
        self._wake_fd, self._awake_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._awake_fd, False)
        # Else the status of a call that hangs is that of its beginning, which does not change.
        is_timed = setup.places and setup.handle_timeout is not None
        self._pull_time = min((setup.handle_timeout or 0.0) / 4, MAX_PULL_TIME) if is_timed else None
        self._cluster: Cluster
        self._actor: Actor

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be a report."""
        return self._wake_fd

    def start(self, kind: type, program: bytes) -> None:
        """Make the actor, and wait until its worker is ready.

        Args:
            kind: The class of the actor.
            program: What the worker runs, pickled.

        Raises:
            ConfigurationError: Ray is not installed.
            FailedStart: The worker has failed.
            AqueductError: There is no cluster, or the actor has failed.
        """
        try:
            from ....placement.cluster import Cluster
        except ImportError as exc:
            raise ConfigurationError(
                f"RayActor needs the package ray: pip install 'fastapi-aqueduct[ray]' ({exc})"
            ) from exc

        # No user code prints here, and Ray prints what happens to its workers.
        sys.stdout = open(os.devnull, "w")
        self._cluster = Cluster(self._placement)
        self._actor = self._cluster.create(kind, GROUPS, self._worker.setup.pack(), program, package_version())
        self._actor.call("run", done=self._on_run_end)
        for _ in range(PULLS):
            self._pull()
        while not self._is_ready():
            pass

    def push(self, frames: Frames, buffers: list[Buffer]) -> None:
        """Send frames to the worker in the actor."""
        self._actor.call("push", Message(frames, buffers, time.monotonic()), group="push")

    def reports(self) -> Iterator[Report]:
        """Yield the reports that have arrived, without their log records and checks, which are forwarded.

        An actor that has ended ends this process.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_fd, 1 << 10)
        while True:
            try:
                item = self._inbox.get_nowait()
            except Empty:
                return
            if isinstance(item, BaseException):
                self._die(item)
            if item.has_ended:
                self._die(AqueductError("its worker has ended"))
            yield self._accept(item)

    def stop(self) -> None:
        """Stop the worker in the actor, which calls the handler's `on_stop`, and leave the cluster."""
        self.push([(Kind.STOP, b"")], [])
        while True:
            item = self._inbox.get()
            if isinstance(item, BaseException):
                log.error("%s ended before it was stopped: %s", self._name(), self._describe(item))
                break
            self._accept(item)
            if item.has_ended:
                break
        self._cluster.leave()

    def _is_ready(self) -> bool:
        try:
            item = self._inbox.get(timeout=WARN_AFTER)
        except Empty:
            log.warning(
                "%s is not ready yet; it needs %s, and the cluster has %s",
                self._name(),
                self._placement,
                self._cluster.describe(),
            )
            return False
        if isinstance(item, BaseException):
            raise AqueductError(f"{self._name()} could not be started: {self._describe(item)}") from item
        for kind, payload in self._accept(item).frames:
            if kind is Kind.FAILED:
                raise FailedStart(payload)
            if kind is Kind.READY:
                return True
        return False

    def _accept(self, report: Report) -> Report:
        """Ask for the next report, and forward the log records, checks and ceilings of this one."""
        if not report.has_ended:
            self._pull()
        channel = self._worker.channel
        for kind, payload in report.frames:
            if kind in _LOGS:
                channel.post(kind, payload)
            elif kind in _STATES:
                channel.send(kind, payload)
        passed = _LOGS | _STATES
        return report._replace(frames=[frame for frame in report.frames if frame[0] not in passed])

    def _pull(self) -> None:
        number = self._pulls = self._pulls + 1

        def note(report: Report, error: BaseException | None) -> None:
            self._on_report(number, report if error is None else error)

        self._actor.call("pull", self._pull_time, group="pull", done=note)

    def _on_report(self, number: int, item: Report | BaseException) -> None:
        """Note a report, or why there is none. Called in a thread of Ray.

        A large report arrives after a small one that follows it.
        """
        with self._lock:
            self._early[number] = item
            while self._noted + 1 in self._early:
                self._noted += 1
                self._note(self._early.pop(self._noted))

    def _note(self, item: Report | BaseException) -> None:
        self._inbox.put(item)
        with contextlib.suppress(BlockingIOError):
            os.write(self._awake_fd, b"\0")

    def _on_run_end(self, result: None, error: BaseException | None) -> None:
        if error is not None:
            self._note(error)

    def _die(self, error: BaseException) -> NoReturn:
        """End this process: the death of an actor is that of the worker, which the flow replaces."""
        log.error("%s has ended: %s", self._name(), self._describe(error))
        self._worker.channel.finish_posts(LOG_TIME)
        os._exit(ACTOR_GONE)  # Ray would wait for what the actor does not answer any more

    def _describe(self, error: BaseException) -> str:
        from ....placement.cluster import summary

        return summary(error)

    def _name(self) -> str:
        return f"the actor of a worker of step {self._worker.setup.name} (pid {os.getpid()})"
