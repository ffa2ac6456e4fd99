"""What the manifests of the documentation say, with the defaults of Kubernetes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import yaml

from ..support import ROOT

DIRECTORY = ROOT / "docs" / "kubernetes"

TOLERANCE = 0.1
"""Of the autoscaler: by what part a metric may differ from its target without an effect."""


@functools.cache
def load(name: str) -> dict[str, Any]:
    """Return a manifest as it is written."""
    data = yaml.safe_load((DIRECTORY / name).read_text())
    assert isinstance(data, dict)
    return data


def names() -> list[str]:
    """List the manifests."""
    return sorted(path.name for path in DIRECTORY.glob("*.yaml"))


@dataclass(frozen=True)
class Probe:
    """When a kubelet asks a container, and what it concludes.

    Attributes:
        path: What it asks for.
        period: Seconds between two questions.
        timeout: Seconds in which the answer must come.
        failure_threshold: Failures in a row that count.
        success_threshold: Successes in a row that count after failures.
    """

    path: str
    period: float = 10.0
    timeout: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1

    @classmethod
    def read(cls, probe: dict[str, Any]) -> Probe:
        """Read a probe by HTTP."""
        return cls(
            probe["httpGet"]["path"],
            probe.get("periodSeconds", cls.period),
            probe.get("timeoutSeconds", cls.timeout),
            probe.get("failureThreshold", cls.failure_threshold),
            probe.get("successThreshold", cls.success_threshold),
        )


@dataclass(frozen=True)
class PodTemplate:
    """How a pod of one container runs.

    Attributes:
        command: What its container runs.
        environment: Variables, those of ConfigMaps included.
        grace: Seconds between SIGTERM and SIGKILL.
        startup: Probe until the container has started.
        readiness: Probe of whether it gets requests.
        liveness: Probe of whether it is left running.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    grace: float
    startup: Probe
    readiness: Probe
    liveness: Probe

    @classmethod
    def read(cls, template: dict[str, Any]) -> PodTemplate:
        """Read the template of a Deployment."""
        spec = template["spec"]
        (container,) = spec["containers"]
        probes = [Probe.read(container[f"{kind}Probe"]) for kind in ("startup", "readiness", "liveness")]
        grace = spec["terminationGracePeriodSeconds"]
        return cls(tuple(container["command"]), environment_of(container), grace, *probes)


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container. ConfigMaps are those of the documentation."""
    maps = {data["metadata"]["name"]: data["data"] for data in map(load, names()) if data["kind"] == "ConfigMap"}
    sources = [maps[source["configMapRef"]["name"]] for source in container.get("envFrom", [])]
    own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    return {name: value for source in [*sources, own] for name, value in source.items()}


@dataclass(frozen=True)
class Rollout:
    """How a Deployment changes its pods.

    Attributes:
        max_surge: Pods above the wanted number meanwhile.
        max_unavailable: Pods below it.
        min_ready: Seconds for which a new pod must be ready until it counts as available.
    """

    max_surge: int
    max_unavailable: int
    min_ready: float

    @classmethod
    def read(cls, spec: dict[str, Any]) -> Rollout:
        """Read the specification of a Deployment."""
        update = spec["strategy"]["rollingUpdate"]
        return cls(update["maxSurge"], update["maxUnavailable"], spec.get("minReadySeconds", 0))


@dataclass(frozen=True)
class Policy:
    """By how much the number of pods may change within a period.

    Attributes:
        is_percentage: Whether the value is a part of the pods at the beginning of the period, and not a number.
        value: Percentage or number.
        period: Seconds.
    """

    is_percentage: bool
    value: int
    period: float


@dataclass(frozen=True)
class Rules:
    """How fast the number of pods follows the metrics in one direction.

    Attributes:
        window: Seconds; the most cautious recommendation of this time counts.
        policies: The one that allows the largest change counts.
    """

    window: float
    policies: tuple[Policy, ...]

    @classmethod
    def read(cls, rules: dict[str, Any], speed: float) -> Rules:
        """Read one direction of ``behavior``; times are divided by the speed."""
        policies = (
            Policy(policy["type"] == "Percent", policy["value"], policy["periodSeconds"] / speed)
            for policy in rules["policies"]
        )
        return cls(rules["stabilizationWindowSeconds"] / speed, tuple(policies))


@dataclass(frozen=True)
class Metric:
    """What is scaled by.

    Attributes:
        query: Expression for Prometheus.
        target: The value that should not be exceeded.
        is_of_pods: Whether the query has a value for each pod, whose mean counts.
    """

    query: str
    target: float
    is_of_pods: bool = False


@dataclass(frozen=True)
class Scaling:
    """What an autoscaler acts on.

    Attributes:
        minimum: The fewest pods.
        maximum: The most pods.
        metrics: The one that asks for the most pods counts.
        up: How fast pods are added.
        down: How fast they are removed.
    """

    minimum: int
    maximum: int
    metrics: tuple[Metric, ...]
    up: Rules
    down: Rules

    @classmethod
    def read(cls, name: str, speed: float = 1.0) -> Scaling:
        """Read a HorizontalPodAutoscaler or a ScaledObject.

        Args:
            name: The manifest.
            speed: By what the times of ``behavior`` are divided.
        """
        spec = load(name)["spec"]
        if load(name)["kind"] == "ScaledObject":
            low, high = spec["minReplicaCount"], spec["maxReplicaCount"]
            triggers = (trigger["metadata"] for trigger in spec["triggers"])
            metrics = tuple(Metric(trigger["query"], float(trigger["threshold"])) for trigger in triggers)
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        else:
            low, high = spec["minReplicas"], spec["maxReplicas"]
            metrics = tuple(_metric_of_pods(metric["pods"]) for metric in spec["metrics"])
            behavior = spec["behavior"]
        up, down = (Rules.read(behavior[direction], speed) for direction in ("scaleUp", "scaleDown"))
        return cls(low, high, metrics, up, down)


def _metric_of_pods(pods: dict[str, Any]) -> Metric:
    """Return what the adapter makes of a metric of pods, for all of them together."""
    rules = yaml.safe_load(load("prometheus-adapter.yaml")["data"]["config.yaml"])["rules"]
    name = pods["metric"]["name"]
    (query,) = (rule["metricsQuery"] for rule in rules if rule["seriesQuery"].startswith(f"{name}{{"))
    parts = {"<<.Series>>": name, "<<.LabelMatchers>>": 'pod=~".+"', "<<.GroupBy>>": "pod"}
    for part, value in parts.items():
        query = query.replace(part, value)
    return Metric(query, quantity(pods["target"]["averageValue"]), is_of_pods=True)


def quantity(text: str) -> float:
    """Return the number that a quantity of Kubernetes stands for."""
    if text.endswith("m"):
        return float(text[:-1]) / 1000
    units = {"Mi": 2.0**20, "Gi": 2.0**30}
    number = text.rstrip("".join(units))
    return float(number) * units.get(text[len(number) :], 1.0)
