"""A day of a service in some minutes: start, overload, crash loops, a broken release, a good one, and calm."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..asgi.service import children
from . import image
from .cluster import Cluster
from .crowd import Crowd
from .journal import Journal
from .kubelet import Pod

CALM = 30.0
OVERLOAD = 100.0
"""Requests a second. A pod can do 40."""

START_TIMEOUT = 120.0
CHANGE_TIMEOUT = 400.0
"""Seconds in which a stage must come to its end."""


@dataclass(frozen=True)
class Result:
    """What has come of it.

    Attributes:
        totals: Requests: ``answered``, ``refused``, ``lost``.
        losses: What the lost ones got.
        most: The most pods that were wanted.
        killed: Pods that did not stop in time.
        failed: Pods at which a request of the proxy has failed, without the one that was killed.
        tracebacks: Names of pods whose log has a traceback, without those of the broken release.
    """

    totals: Counter[str]
    losses: list[str]
    most: int
    killed: list[str]
    failed: list[str]
    tracebacks: list[str]


async def play(directory: Path, journal: Journal, scaled_by: str, speed: float, has_releases: bool = True) -> Result:
    """Play all stages.

    Args:
        directory: An empty directory.
        journal: What happens is written there.
        scaled_by: The manifest of the autoscaler.
        speed: As for `Cluster`.
        has_releases: Whether there are crashes and releases, and not only overload and calm.

    Raises:
        TimeoutError: A stage did not come to its end.
    """
    first, broken, second = (
        image.build(directory / name, models)
        for name, models in (("1.0", image.MODELS), ("1.1", image.BROKEN_MODELS), ("1.2", image.MODELS))
    )
    cluster = Cluster(directory, journal, first, scaled_by, speed)
    crowd = Crowd(cluster.balancer.url, journal)
    stage = Stages(cluster, crowd, journal)
    async with cluster.running():
        await stage.start()
        async with crowd.sending():
            await stage.overload()
            if has_releases:
                await stage.deaths()
                await stage.broken_release(broken)
                await stage.release(second)
            await stage.calm()
        journal.note("stage", name="stop")
    pods = cluster.deployment.past
    return Result(
        crowd.totals,
        crowd.losses,
        max(entry.data["wanted"] for entry in journal.of_kind("scale")),
        [pod.name for pod in pods if pod.was_killed],
        [pod.name for pod in pods if pod.port in cluster.balancer.failed() and pod not in stage.victims],
        [pod.name for pod in pods if pod.image != broken and "Traceback" in pod.log()],
    )


class Stages:
    """The stages, in their order.

    Args:
        cluster: Where they happen.
        crowd: The clients.
        journal: Where the name of each stage is written.

    Attributes:
        victims: Pods whose server was killed.
    """

    def __init__(self, cluster: Cluster, crowd: Crowd, journal: Journal) -> None:
        self._cluster = cluster
        self._deployment = cluster.deployment
        self._crowd = crowd
        self._journal = journal
        self.victims: list[Pod] = []

    async def start(self) -> None:
        """Have the first pods load their models."""
        self._begin("start")
        await self._cluster.until(self._deployment.is_complete, START_TIMEOUT)

    async def overload(self) -> None:
        """After some calm, send more than the pods can do, until there are enough of them."""
        self._begin("calm")
        self._crowd.rate = CALM
        await asyncio.sleep(20)
        self._begin("overload")
        self._crowd.rate = OVERLOAD
        await self._cluster.until(lambda: self._crowd.totals["refused"], CHANGE_TIMEOUT)
        await self._cluster.until(self._is_settled, CHANGE_TIMEOUT, lasts=20)

    async def deaths(self) -> None:
        """Kill a worker of each pod, then the whole server of one, again when it is back."""
        self._begin("kills")
        for pod in self._ready_pods():
            os.kill(max(children(pod.pid)), signal.SIGKILL)
        await asyncio.sleep(5)
        victim = self._ready_pods()[0]
        self.victims.append(victim)
        for _ in range(2):
            victim.kill()
            await self._cluster.until(lambda: not victim.is_ready, START_TIMEOUT)
            await self._cluster.until(lambda: victim.is_ready, START_TIMEOUT)
        await self._cluster.until(self._is_settled, CHANGE_TIMEOUT, lasts=5)

    async def broken_release(self, image: Path) -> None:
        """Roll out an image whose models cannot be loaded: its first pod crashes again and again."""
        self._begin("broken release")
        self._deployment.image = image
        await self._cluster.until(lambda: self._crashes(image) >= 3, CHANGE_TIMEOUT)
        assert len([pod for pod in self._ready_pods() if pod.image != image]) == self._deployment.wanted

    async def release(self, image: Path) -> None:
        """Roll out an image that works: each pod is replaced under load."""
        self._begin("release")
        self._deployment.image = image
        await self._cluster.until(self._is_settled, CHANGE_TIMEOUT, lasts=5)

    async def calm(self) -> None:
        """Send little, until only the fewest pods are left."""
        self._begin("calm")
        self._crowd.rate = CALM
        fewest = self._cluster.scaling.minimum
        await self._cluster.until(
            lambda: self._deployment.wanted == fewest and self._is_settled(), 2 * CHANGE_TIMEOUT, lasts=5
        )

    def _begin(self, name: str) -> None:
        self._journal.note("stage", name=name)

    def _ready_pods(self) -> list[Pod]:
        return [pod for pod in self._deployment.pods if pod.is_ready]

    def _crashes(self, image: Path) -> int:
        entries = self._journal.of_kind("pod")
        return sum(entry.data["state"] == "waiting" and entry.data["image"] == image.name for entry in entries)

    def _is_settled(self) -> bool:
        """Tell whether all wanted pods are there, and none has refused a request in the last seconds."""
        recent = self._journal.of_kind("traffic")[-3:]
        return self._deployment.is_complete() and not any(entry.data.get("refused") for entry in recent)
