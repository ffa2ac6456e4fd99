"""A cluster on this machine: a Deployment, a proxy, a Prometheus and an autoscaler, as the manifests say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from ..monitoring.server import Prometheus, configured_prometheus
from .autoscaler import SYNC_PERIOD, Autoscaler, recommend
from .balancer import ENDPOINT_DELAY, Balancer
from .deployment import Deployment
from .journal import Journal
from .kubelet import Pod, free_port
from .manifests import Metric, PodTemplate, Rollout, Scaling, load

TURN = 0.2
"""Seconds between two looks at the pods."""


class Cluster:
    """Runs an application as a cluster would.

    Args:
        directory: An empty directory.
        journal: What happens is written there.
        image: The first image of the application.
        scaled_by: The manifest of the autoscaler.
        speed: By what the times between restarts and the times of the autoscaler's ``behavior`` are divided.
    """

    def __init__(self, directory: Path, journal: Journal, image: Path, scaled_by: str, speed: float) -> None:
        spec = load("deployment.yaml")["spec"]
        template = PodTemplate.read(spec["template"])
        numbers = itertools.count(1)

        def make(image: Path) -> Pod:
            return Pod(f"ocr-{next(numbers)}", template, image, directory, journal, speed)

        self.scaling = Scaling.read(scaled_by, speed)
        self.deployment = Deployment(Rollout.read(spec), make, image, self.scaling.minimum)
        self.balancer = Balancer(_made(directory / "nginx"), free_port())
        self._journal = journal
        self._targets = directory / "targets.json"
        self._prometheus = _made(directory / "prometheus")
        self._ready: frozenset[int] = frozenset()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it until the end of the context; then all pods have stopped."""
        self._targets.write_text("[]")
        configuration = _scrape_configuration(self._targets)
        with configured_prometheus(self._prometheus, configuration) as prometheus, self.balancer.running():
            controllers = [self._control(), self._scale(prometheus)]
            tasks = [asyncio.ensure_future(_checked(controller)) for controller in controllers]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self.deployment.stop()
            for task in tasks:
                if not task.cancelled():
                    task.result()

    async def until(self, condition: Callable[[], object], timeout: float, lasts: float = 0.0) -> None:
        """Wait until something is true, and has been for some seconds.

        Raises:
            TimeoutError: It was not in time.
        """
        async with asyncio.timeout(timeout):
            since = math.inf
            while time.monotonic() - since < lasts:
                await asyncio.sleep(TURN)
                since = min(since, time.monotonic()) if condition() else math.inf

    async def _control(self) -> None:
        while True:
            self.deployment.reconcile()
            self._publish()
            await asyncio.sleep(TURN)

    def _publish(self) -> None:
        """Have the proxy know the ready pods a little later, and Prometheus all of them."""
        ready = frozenset(pod.port for pod in self.deployment.pods if pod.is_ready)
        if ready != self._ready:
            self._ready = ready
            asyncio.get_running_loop().call_later(ENDPOINT_DELAY, self.balancer.send_to, ready)
        groups = [
            {"targets": [f"127.0.0.1:{pod.port}"], "labels": {"namespace": "default", "pod": pod.name}}
            for pod in self.deployment.pods
        ]
        text = json.dumps(groups)
        if text != self._targets.read_text():
            self._targets.write_text(text)

    async def _scale(self, prometheus: Prometheus) -> None:
        autoscaler = Autoscaler(self.scaling)
        while True:
            await asyncio.sleep(SYNC_PERIOD)
            values = [await asyncio.to_thread(_evaluate, prometheus, metric) for metric in self.scaling.metrics]
            pods = self.deployment.counts()
            pairs = zip(self.scaling.metrics, values, strict=True)
            recommended = max(recommend(metric, value, pods) for metric, value in pairs)
            self.deployment.wanted = autoscaler.decide(time.monotonic(), pods.wanted, recommended)
            means = [round(sum(value) / len(value), 2) if value else None for value in values]
            numbers = {"recommended": recommended, "wanted": self.deployment.wanted, "ready": pods.ready}
            targets = [metric.target for metric in self.scaling.metrics]
            self._journal.note("scale", values=means, targets=targets, **numbers)


def _evaluate(prometheus: Prometheus, metric: Metric) -> list[float]:
    return [series.value for series in prometheus.query(metric.query) if math.isfinite(series.value)]


def _scrape_configuration(targets: Path) -> dict[str, Any]:
    (endpoint,) = load("servicemonitor.yaml")["spec"]["endpoints"]
    services = {"files": [str(targets)], "refresh_interval": "1s"}
    job = {"job_name": "ocr", "metrics_path": endpoint["path"], "file_sd_configs": [services]}
    return {"global": {"scrape_interval": endpoint["interval"]}, "scrape_configs": [job]}


async def _checked(controller: Coroutine[Any, Any, None]) -> None:
    """Print at once why a controller ends."""
    try:
        await controller
    except Exception as exc:
        print(f"a controller has ended: {exc!r}", flush=True)
        raise


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
