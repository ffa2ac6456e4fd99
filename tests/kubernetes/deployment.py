"""A Deployment: as many pods of an image as are wanted, changed one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from .autoscaler import Pods
from .kubelet import Pod
from .manifests import Rollout


class Deployment:
    """Starts and deletes pods until there is the wanted number of the present image.

    Args:
        rollout: How it changes them.
        make: Makes a pod of an image.
        image: The first image.
        wanted: The first number of pods.

    Attributes:
        image: The present image.
        wanted: The present number.
        pods: All pods that are not gone.
        past: Those that are.
    """

    def __init__(self, rollout: Rollout, make: Callable[[Path], Pod], image: Path, wanted: int) -> None:
        self.image = image
        self.wanted = wanted
        self.pods: list[Pod] = []
        self.past: list[Pod] = []
        self._rollout = rollout
        self._make = make
        self._tasks: dict[Pod, asyncio.Task[None]] = {}

    def counts(self) -> Pods:
        """Count the pods."""
        active = self._active()
        return Pods(self.wanted, len(active), sum(pod.is_ready for pod in active))

    def is_complete(self) -> bool:
        """Tell whether there are only available pods of the present image, as many as are wanted."""
        return len(self.pods) == self.wanted and all(
            pod.image == self.image and not pod.is_terminating and self._is_available(pod) for pod in self.pods
        )

    def reconcile(self) -> None:
        """Start and delete what may be started and deleted now."""
        for pod in [pod for pod in self.pods if self._tasks[pod].done()]:
            self._tasks.pop(pod).result()
            self.pods.remove(pod)
            self.past.append(pod)
        new = [pod for pod in self._active() if pod.image == self.image]
        old = [pod for pod in self._active() if pod.image != self.image]
        room = self.wanted + (self._rollout.max_surge if old else 0) - len(new) - len(old)
        for _ in range(min(self.wanted - len(new), room)):
            self._start()
        # Those that are not ready go first, then the youngest.
        surplus = sorted(new, key=lambda pod: (pod.is_ready, -pod.ready_since))
        for pod in surplus[: max(0, len(new) - self.wanted)]:
            pod.delete()
        self._delete_old(old)

    def _delete_old(self, old: list[Pod]) -> None:
        active = self._active()
        fewest = self.wanted - self._rollout.max_unavailable
        broken = [pod for pod in old if not self._is_available(pod)]
        new_unavailable = sum(pod.image == self.image and not self._is_available(pod) for pod in active)
        for pod in broken[: max(0, len(active) - fewest - new_unavailable)]:
            pod.delete()
        available = sum(map(self._is_available, self._active()))
        working = [pod for pod in old if self._is_available(pod)]
        for pod in working[: max(0, available - fewest)]:
            pod.delete()

    async def stop(self) -> None:
        """Delete all pods, and wait until they are gone."""
        for pod in self._active():
            pod.delete()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self.past += self.pods
        self.pods.clear()

    def _start(self) -> None:
        pod = self._make(self.image)
        self.pods.append(pod)
        self._tasks[pod] = asyncio.ensure_future(pod.run())

    def _active(self) -> list[Pod]:
        return [pod for pod in self.pods if not pod.is_terminating]

    def _is_available(self, pod: Pod) -> bool:
        return pod.is_available(self._rollout.min_ready)
