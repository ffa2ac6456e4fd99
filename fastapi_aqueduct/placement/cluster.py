"""The only module that uses Ray. It is imported in the stand-ins of actors and in the actors, and nowhere else."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray
import ray.exceptions
import ray.util

from ..exceptions import AqueductError
from .ray_actor import RayActor

CONNECT_TIMEOUT = 5.0
"""Seconds within which the head of the cluster must accept a connection. Ray itself tries for minutes, and then ends
the process."""

_MAX_TEXT = 500
_COLOURS = re.compile("\x1b\\[[0-9;]*m")

Done = Callable[[Any, BaseException | None], None]
"""Called in a thread of Ray with the result of a call, or with its error."""


class ClusterError(AqueductError):
    """There is no cluster that can be joined."""


class Place(NamedTuple):
    """Where an actor runs.

    Attributes:
        node: The address of the machine.
        gpus: The GPUs that it has, with commas between them; empty for none.
    """

    node: str
    gpus: str


class Cluster:
    """The connection of this process to a Ray cluster. What it makes there ends with this process.

    Args:
        placement: What an actor needs.

    Raises:
        ClusterError: There is no cluster.
    """

    def __init__(self, placement: RayActor) -> None:
        self._placement = placement
        address = placement.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", address)
        if ":" in address:
            _check_reachable(address)
        try:
            # Ray would write what actors print, and reports of its own, to stderr of this process.
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as exc:
            raise ClusterError(
                f"there is no Ray cluster at {address!r}: start a node on this machine (ray start --head, or "
                f"ray start --address=HOST:PORT to join others), or set RayActor(address=...): {exc}"
            ) from exc

    def create(self, cls: type, groups: Mapping[str, int], *args: Any) -> Actor:
        """Make an actor.

        Args:
            cls: Its class, which must be importable on the other machines.
            groups: The number of threads of each of its concurrency groups.
            *args: The arguments of its constructor.
        """
        placement = self._placement
        options: dict[str, Any] = {
            "num_cpus": placement.num_cpus,
            "num_gpus": placement.num_gpus,
            "resources": dict(placement.resources),
            "runtime_env": dict(placement.runtime_env) or None,
            "concurrency_groups": dict(groups),
            # The flow decides what is done after a death.
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        return Actor(ray.remote(**options)(cls).remote(*args))

    def describe(self) -> str:
        """Return what the nodes of the cluster have, for a message."""
        shown = []
        for node in sorted(ray.nodes(), key=lambda node: str(node["NodeManagerAddress"])):
            if node["Alive"]:
                amounts = sorted((name, amount) for name, amount in node["Resources"].items() if _is_asked_for(name))
                shown.append(
                    f"{node['NodeManagerAddress']}: " + ", ".join(f"{name} {amount:g}" for name, amount in amounts)
                )
        return "; ".join(shown) or "no nodes"

    def leave(self) -> None:
        """End the connection, and with it the actors."""
        ray.shutdown()


class Actor:
    """An actor that this process has made.

    Args:
        handle: Ray's handle of it. The actor ends when the handle is gone.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def call(self, method: str, *args: Any, group: str | None = None, done: Done | None = None) -> None:
        """Call a method; the arguments are copied before this returns.

        Args:
            method: Its name.
            *args: Its arguments.
            group: The concurrency group that runs it.
            done: Called at the end.
        """
        bound = getattr(self._handle, method)
        ref = (bound.options(concurrency_group=group) if group else bound).remote(*args)
        if done is not None:
            future = ref.future()
            future.add_done_callback(lambda ended: _finish(ended, done))


def _finish(ended: Any, done: Done) -> None:
    error = ended.exception()
    done(None if error is not None else ended.result(), error)


def summary(error: BaseException) -> str:
    """Describe in one line why a call of an actor has failed."""
    cause = getattr(error, "cause", None)
    if isinstance(error, ray.exceptions.RayTaskError) and cause is not None:
        return f"{type(cause).__name__}: {cause}"
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip() and not line.startswith("\t")]
    if isinstance(error, ray.exceptions.RayActorError) and len(lines) > 1 and "creation task" in lines[0]:
        lines = lines[-1:]  # of a traceback
    return f"{type(error).__name__}: {' '.join(lines)[:_MAX_TEXT]}"


def place() -> Place:
    """Return where this actor runs."""
    ids = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return Place(ray.util.get_node_ip_address(), ",".join(ids))


def _is_asked_for(resource: str) -> bool:
    return ":" not in resource and resource not in ("memory", "object_store_memory")


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_TIMEOUT):
            pass
    except (OSError, ValueError) as exc:
        raise ClusterError(
            f"there is no Ray cluster at {address}: {exc}; check RayActor(address=...), and that the head runs"
        ) from exc
