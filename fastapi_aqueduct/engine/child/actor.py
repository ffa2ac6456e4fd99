"""Actor: runs a worker in an actor of a Ray cluster, with a relay in the place of the API process."""

from __future__ import annotations

import io
import os
import socket
import threading
from dataclasses import replace
from typing import Any

from ...exceptions import ConfigurationError
from ...handler import BaseTaskHandler
from ...task import BaseTask
from ...worker import WorkerInfo
from ..memory.layout import Layout
from ..memory.mapping import Mapping, create_memory
from ..memory.tenant import Tenant
from ..route import Route
from ..wire.frames import Envelope, Kind, pack
from ..wire.worker_channel import WorkerChannel
from .importing import MAIN, ProgramUnpickler
from .logs import LogForwarder
from .program import Program
from .relay import WORKER_REGION, Relay
from .remote.message import Message, Report, package_version
from .session import Session
from .setup import Setup
from .worker import Worker

LOG_TIME = 1.0
"""Seconds for which a worker that ends waits until its last log records are sent."""

OWN_LOGGER = "ray"
"""The logger of Ray, whose records stay in its own files."""


class Actor:
    """Runs a worker until it is stopped. Each method has a thread of its own.

    Args:
        setup: The settings of the worker, packed.
        program: The user's code, pickled.
        version: The version of this package at the stand-in.
    """

    def __init__(self, setup: bytes, program: bytes, version: str) -> None:
        self._setup = setup
        self._program = program
        self._version = version
        self._has_relay = threading.Event()
        self._relay: Relay

    def run(self) -> None:
        """Run the worker.

        Raises:
            ConfigurationError: The machine has another version of this package.
        """
        version = package_version()
        if self._version != version:
            raise ConfigurationError(
                f"the actor has fastapi_aqueduct {version}, and the flow {self._version}: install the same version"
            )
        declared = Setup.unpack(self._setup)
        # More than the flow may have: what the flow admits has room here, beside what user code keeps.
        layout = Layout(WORKER_REGION + 1, 2 * declared.layout.limit)
        memory_fd = create_memory(declared.name, layout.size)
        ours, theirs = socket.socketpair()
        relay = self._relay = Relay(ours, Mapping(memory_fd, layout.size), layout)
        self._has_relay.set()
        info = _info(declared.info)
        setup = replace(declared, layout=layout, region=WORKER_REGION, blocks={}, busy_poll=0.0, info=info)
        relay.send(pack(Kind.SETUP, setup.pack()))
        channel = WorkerChannel(theirs)
        logs = LogForwarder(channel, OWN_LOGGER)
        session = _Session(channel, memory_fd, _NoSignal(), logs)
        session.relay = relay
        try:
            session.prepare(self._read_program)
            session.run()
            logs.finish(LOG_TIME)
        except SystemExit:
            pass  # the worker has reported why
        finally:
            theirs.shutdown(socket.SHUT_RDWR)

    def push(self, message: Message) -> None:
        """Give frames to the worker."""
        self._relay.push(message)

    def pull(self, timeout: float | None) -> Report:
        """Wait for frames of the worker; see `Relay.pull`."""
        self._has_relay.wait()
        return self._relay.pull(timeout)

    def _read_program(self) -> Program:
        program: Program = _Unpickler(io.BytesIO(self._program)).load()
        return program


class _Session(Session):
    """As in a worker process; tasks leave with the deadlines with which they came.

    Attributes:
        relay: Knows those deadlines.
    """

    relay: Relay

    def make_worker(self, handler: BaseTaskHandler, route: Route, tenant: Tenant) -> Worker:
        """Make what the runner works with."""
        worker = _Worker(self.setup, route, self._channel, tenant, self._death_signal, self._logs)
        worker.relay = self.relay
        return worker


class _Worker(Worker):
    """Gives tasks their deadlines back, since the clocks of two machines differ."""

    relay: Relay

    def encode(self, envelope: Envelope, task: BaseTask, failure: bytes) -> Envelope:
        if task.expiration_time == envelope.deadline:
            if self.changes is not None:
                return super().encode(envelope, task, failure)  # it is not sent, since the handler has not set it
            task.expiration_time = self.relay.deadline_of(envelope.id)
        elif task.expiration_time is not None:  # the handler has set it
            task.expiration_time = self.relay.to_stand_in(task.expiration_time)
        return super().encode(envelope, task, failure)


class _NoSignal:
    """Nothing is to be done: Ray ends an actor when its stand-in ends."""

    def arm(self) -> None:
        pass

    def disarm(self) -> None:
        pass


class _Unpickler(ProgramUnpickler):
    """Unpickles a program where the main module is that of Ray."""

    def find_class(self, module: str, name: str) -> Any:
        if module in MAIN:
            raise ConfigurationError(
                f"{name} is defined in the main module, which an actor cannot import: define it in a module that is "
                'installed on all machines of the cluster, or part of RayActor(runtime_env={"working_dir": ...})'
            )
        return super().find_class(module, name)


def _info(info: WorkerInfo) -> WorkerInfo:
    from ...placement.cluster import place  # uses Ray

    where = place()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return replace(
        info,
        node=where.node,
        device="cuda:0" if where.gpus else None,
        device_id=where.gpus or None,
        threads=int(threads) if threads.isdecimal() else info.threads,
    )
