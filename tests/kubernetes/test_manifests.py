"""The manifests of the documentation are valid, and fit the application that they run, and each other."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ..support import DEADLINE, script_environment, write_script
from . import image
from .manifests import DIRECTORY, PodTemplate, Probe, Scaling, environment_of, load, names, quantity

CUSTOM = {
    "scaledobject.yaml": "cloudcoil.models.keda.v1alpha1",
    "servicemonitor.yaml": "cloudcoil.models.prometheus_operator.v1",
}
"""Manifests of kinds that Kubernetes itself does not have, and the modules of their models; one takes 4 s to import."""

DEPLOYMENTS = [name for name in names() if name.startswith("deployment")]

INSPECTION = """
    import inspect
    import json
    import re

    from starlette.testclient import TestClient

    from fastapi_aqueduct import Flow
    from fastapi_aqueduct.testing import inline
    from main import app
    from pipeline import flow

    PATHS = {paths}

    if __name__ == "__main__":
        with inline(flow), TestClient(app) as client:
            assert client.post("/ocr", content=b"a picture").status_code == 200
            statuses = {{path: client.get(path).status_code for path in PATHS}}
            page = client.get("/metrics").text
        found = {{
            "statuses": statuses,
            "metrics": re.findall("^# TYPE ([a-z_]+) ", page, re.MULTILINE),
            "flow": flow.name,
            "start_timeout": inspect.signature(Flow).parameters["start_timeout"].default,
            "stop_timeout": flow.stop_timeout,
            "settings": {{item.variable: item.source for item in flow.settings}},
        }}
        print(json.dumps(found))
"""


def pod_of(deployment: str) -> dict[str, Any]:
    spec = load(deployment)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def containers_of(deployment: str) -> list[dict[str, Any]]:
    pod = pod_of(deployment)
    return [*pod.get("initContainers", []), *pod["containers"]]


def server_of(deployment: str) -> dict[str, Any]:
    """Return the container of the API process."""
    (container,) = pod_of(deployment)["containers"]
    assert isinstance(container, dict)
    return container


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What there is to know about the application of the page while it runs."""
    directory = image.build(tmp_path_factory.mktemp("images") / "1.0", image.MODELS.replace("3.0", "0.0"))
    probes = [
        Probe.read(server[kind]).path for server in map(server_of, DEPLOYMENTS) for kind in server if "Probe" in kind
    ]
    (endpoint,) = load("servicemonitor.yaml")["spec"]["endpoints"]
    write_script(directory, INSPECTION.format(paths=sorted({*probes, endpoint["path"]})), "inspection.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", "inspection.py"],
        cwd=directory,
        env={**script_environment(), **environment_of(server_of("deployment.yaml"))},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [name for name in names() if name not in CUSTOM])
def test_kubernetes_accepts_a_manifest(name: str) -> None:
    kubernetes_validate.validate(load(name), "1.37", strict=True)


@pytest.mark.parametrize(
    "name", [name if "scaled" in name else pytest.param(name, marks=pytest.mark.long) for name in CUSTOM]
)
def test_an_operator_accepts_a_manifest(name: str) -> None:
    """All that is written has a place in the model."""
    data = load(name)
    model = getattr(importlib.import_module(CUSTOM[name]), data["kind"])
    read = model.model_validate(data)
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == data


def test_probes_and_scrapes_have_a_route(application: dict[str, Any]) -> None:
    assert set(application["statuses"].values()) == {200}
    assert set(application["statuses"]) == {"/startup", "/ready", "/live", "/metrics"}


@pytest.mark.parametrize("name", ["horizontalpodautoscaler.yaml", "prometheus-adapter.yaml", "scaledobject.yaml"])
def test_metrics_are_those_that_are_exported(name: str, application: dict[str, Any]) -> None:
    text = (DIRECTORY / name).read_text()
    used = set(re.findall(r"\baqueduct_\w+", text))
    assert used and used <= set(application["metrics"])
    assert set(re.findall(r'flow="(\w+)"', text)) <= {application["flow"]}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_variables_are_those_of_the_flow(name: str, application: dict[str, Any]) -> None:
    for container in containers_of(name):
        variables = {variable for variable in environment_of(container) if "__" in variable}
        assert variables and variables <= set(application["settings"])


def test_the_flow_takes_its_numbers_from_the_variables(application: dict[str, Any]) -> None:
    sources = application["settings"]
    taken = {variable for variable, source in sources.items() if source == "environment"}
    assert taken == {variable for variable in environment_of(server_of("deployment.yaml")) if "__" in variable}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_has_the_time_to_start_and_to_stop(name: str, application: dict[str, Any]) -> None:
    server = server_of(name)
    startup, readiness = Probe.read(server["startupProbe"]), Probe.read(server["readinessProbe"])
    assert startup.period * startup.failure_threshold > application["start_timeout"]
    drain_delay = float(environment_of(server)["AQUEDUCT_DRAIN_DELAY"])
    assert readiness.period * readiness.failure_threshold < drain_delay
    (graceful,) = (float(word.split("=")[1]) for word in server["command"] if "graceful" in word)
    assert pod_of(name)["terminationGracePeriodSeconds"] > drain_delay + graceful + application["stop_timeout"] + 7


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_has_the_memory_of_its_flow(name: str) -> None:
    """Shared memory counts, and there is none of it in /dev/shm."""
    for container in containers_of(name):
        limit = quantity(environment_of(container)["AQUEDUCT_OCR__MEMORY_LIMIT"])
        assert quantity(container["resources"]["limits"]["memory"]) > limit
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert "/dev/shm" not in (DIRECTORY / name).read_text()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_all_containers_of_a_pod_are_restricted(name: str) -> None:
    """As the strictest standard for pods of Kubernetes asks for."""
    pod = pod_of(name)
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    for container in containers_of(name):
        context = container["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_manifests_name_each_other() -> None:
    service, monitor = load("service.yaml"), load("servicemonitor.yaml")
    labels = [load(name)["spec"]["template"]["metadata"]["labels"] for name in DEPLOYMENTS]
    budget = load("poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"]
    assert all(found == service["spec"]["selector"] == budget for found in labels)
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert {port["name"] for port in service["spec"]["ports"]} == {
        endpoint["port"] for endpoint in monitor["spec"]["endpoints"]
    }
    assert {load(name)["metadata"]["name"] for name in DEPLOYMENTS} == {
        load(name)["spec"]["scaleTargetRef"]["name"] for name in ("horizontalpodautoscaler.yaml", "scaledobject.yaml")
    }
    for name in DEPLOYMENTS:
        (port,) = server_of(name)["ports"]
        assert port["name"] == "http" and f"--port={port['containerPort']}" in server_of(name)["command"]


def test_the_page_shows_the_manifests_as_they_are() -> None:
    page = image.PAGE.read_text()
    shown = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown and set(shown) <= {(DIRECTORY / name).read_text() for name in names()}
    assert set(re.findall(r"\(kubernetes/([\w-]+\.yaml)\)", page)) == set(names())


def test_both_autoscalers_change_as_much() -> None:
    by_busy_share, by_wait = Scaling.read("horizontalpodautoscaler.yaml"), Scaling.read("scaledobject.yaml")
    assert (by_busy_share.minimum, by_busy_share.maximum) == (by_wait.minimum, by_wait.maximum)
    assert (by_busy_share.up, by_busy_share.down) == (by_wait.up, by_wait.down)
    assert by_busy_share.metrics[0].target == by_wait.metrics[1].target


def test_both_containers_of_the_sidecar_variant_meet() -> None:
    """At a socket in a volume that both have, as the same user, in a directory that only this user can open."""
    pipeline, api = containers_of("deployment-sidecar.yaml")
    words = pipeline["command"]
    socket = words[words.index("--socket") + 1]
    assert environment_of(api)["AQUEDUCT_PIPELINE"] == f"unix:{socket}"
    assert pipeline["startupProbe"]["exec"]["command"] == ["test", "-S", socket]
    assert pipeline["restartPolicy"] == "Always"
    assert pipeline["volumeMounts"] == api["volumeMounts"]
    (mount,) = api["volumeMounts"]
    # Not in the volume itself, which belongs to root and is open to all.
    assert Path(socket).parent.parent == Path(mount["mountPath"])
    assert not {"runAsUser", "runAsGroup"} & {*pipeline["securityContext"], *api["securityContext"]}
    assert "fsGroup" not in pod_of("deployment-sidecar.yaml")["securityContext"]


def test_the_cluster_of_the_tests_reads_what_is_written() -> None:
    template = PodTemplate.read(load("deployment.yaml")["spec"]["template"])
    assert template.readiness == Probe("/ready", 2, 2, 2) and template.grace == 60
    assert shlex.join(template.command).startswith("uvicorn main:app ")
    assert template.environment == load("configmap.yaml")["data"]
    adapter = yaml.safe_load(load("prometheus-adapter.yaml")["data"]["config.yaml"])
    assert len(adapter["rules"]) == 1
    (metric,) = Scaling.read("horizontalpodautoscaler.yaml").metrics
    assert metric.query == 'max by (pod) (aqueduct_busy_share{pod=~".+"})'
