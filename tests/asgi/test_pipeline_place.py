"""Where an application says that its pipelines run."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, ConfigurationError, Flow, FlowStep
from fastapi_aqueduct.engine.engine import LocalEngine
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.rendezvous import HostRendezvous, SocketRendezvous
from fastapi_aqueduct.pipeline import PipelinePlace
from fastapi_aqueduct.testing import inline

from ..handlers import Each, Job


def nothing(task: Job) -> None:
    pass


def flow_of(name: str = "ocr") -> Flow:
    return Flow(FlowStep(Each(nothing), name="read"), name=name)


def test_a_pipeline_is_the_process_s_own_unless_something_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AQUEDUCT_PIPELINE", raising=False)
    assert PipelinePlace.read(None) == PipelinePlace("own")
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "")
    assert PipelinePlace.read(None) == PipelinePlace("own")
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "host")
    assert PipelinePlace.read(None) == PipelinePlace("host")
    assert PipelinePlace.read("own") == PipelinePlace("own")  # what the code says counts
    assert PipelinePlace.read("unix:/run/ocr.sock") == PipelinePlace("unix", "/run/ocr.sock")


@pytest.mark.parametrize("text", ["shared", "HOST", "unix", "/run/ocr.sock", "tcp:localhost:80", 1, True])
def test_other_values_are_refused(text: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r'pipeline must be "own", "host" or "unix:" and the path'):
        Aqueduct(flow_of(), pipeline=text)
    monkeypatch.setenv("AQUEDUCT_PIPELINE", str(text))
    with pytest.raises(ConfigurationError, match=r'AQUEDUCT_PIPELINE must be "own"'):
        Aqueduct(flow_of())


@pytest.mark.parametrize("path", ["", "ocr.sock", "/run/ocr/", "/" + 108 * "x"])
def test_a_path_that_is_none_of_a_socket_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError):
        Aqueduct(flow_of(), pipeline=f"unix:{path}")


def test_several_flows_have_several_sockets() -> None:
    flows = flow_of("ocr"), flow_of("tts")
    with pytest.raises(ConfigurationError, match=r"ocr, tts needs a socket of its own.*put \{flow\} into the path"):
        Aqueduct(*flows, pipeline="unix:/run/ocr.sock")
    Aqueduct(*flows, pipeline="unix:/run/{flow}.sock")
    with pytest.raises(ConfigurationError, match="the name of flow a/b cannot be a part of the path"):
        Aqueduct(flow_of("a/b"), pipeline="unix:/run/{flow}.sock")


@pytest.mark.parametrize("pipeline", ["host", "unix:/run/{flow}.sock"])
def test_flows_of_one_name_cannot_be_told_apart(pipeline: str) -> None:
    flows = flow_of(), flow_of()
    with pytest.raises(ConfigurationError, match=r'these are ocr, ocr: give each its own, Flow\(\.\.\., name="ocr"\)'):
        Aqueduct(*flows, pipeline=pipeline)
    Aqueduct(*flows)


def test_a_flow_gets_the_engine_of_its_place(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    flow = flow_of()
    options = flow._lifecycle.options
    for place, kind in (("host", HostRendezvous), ("unix:/run/{flow}.sock", SocketRendezvous)):
        PipelinePlace.read(place).assign([flow])
        engine = flow._lifecycle._build(options)
        assert isinstance(engine, RemoteEngine)
        rendezvous = engine._search._rendezvous
        assert isinstance(rendezvous, kind)
        assert rendezvous.hello.flow == "ocr"
        assert bool(rendezvous.hello.fingerprint) is (place == "host")
    PipelinePlace.read("own").assign([flow])
    assert flow._lifecycle._build == LocalEngine.build


async def test_a_test_without_processes_has_none_wherever_the_pipeline_runs() -> None:
    """Nothing listens at the path."""
    flow = flow_of()
    app = FastAPI()
    with inline(flow):
        async with Aqueduct(flow, pipeline="unix:/nowhere/ocr.sock").run(app):
            await flow.process(Job())
