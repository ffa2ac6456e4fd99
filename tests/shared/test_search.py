"""The search for a pipeline process, when the connection that it finds cannot be used."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastapi_aqueduct import Flow, StartError
from fastapi_aqueduct.engine.options import EngineOptions
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.handshake import ClientEnd

from .. import handlers
from ..handlers import Each, Job
from ..support import DEADLINE, eventually, outcome
from .pipeline import LoopPipeline, in_a_pipeline, pipeline_of
from .test_guest import beside


class Unmappable(LoopPipeline):
    """A pipeline whose memory this process cannot map for some time, as when it may have no more addresses.

    Attributes:
        is_mappable: Whether it can.
    """

    is_mappable = True

    def connect(self, deadline: float) -> ClientEnd:
        """Connect; see `Rendezvous.connect`."""
        end = super().connect(deadline)
        if not self.is_mappable:
            pipe = os.pipe()
            os.dup2(pipe[0], end.memory_fd, inheritable=False)
            for fd in pipe:
                os.close(fd)
        return end


def build(options: EngineOptions) -> RemoteEngine:
    return RemoteEngine(options, Unmappable(options))


async def test_memory_that_cannot_be_mapped_is_mapped_when_that_is_possible(caplog: pytest.LogCaptureFixture) -> None:
    flow = Flow(Each(handlers.add_one))
    with flow._lifecycle.built_by(build):
        async with flow:
            engine = flow._lifecycle.engine
            assert isinstance(engine, RemoteEngine)
            pipeline = pipeline_of(engine)
            assert isinstance(pipeline, Unmappable)
            (guest,) = pipeline.gateway.guests
            async with beside(flow):
                pipeline.is_mappable = False
                guest._end()
                await eventually(lambda: "no shared memory" in flow.statistics().reason)
                assert flow.statistics().state == "starting"
                pipeline.is_mappable = True
                await eventually(lambda: engine._connection is not None)
                assert not flow.statistics().reason
                done = await outcome(flow.process(Job(number=1), DEADLINE))
                assert isinstance(done, Job), repr(done)
    heard = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["lost its pipeline" in line for line in heard if "lost" in line or "runs again" in line] == [True, False]


@contextlib.contextmanager
def few_addresses(more: int) -> Iterator[None]:
    """Let this process map some bytes more than it has mapped, and collect no garbage by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    gc.disable()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        gc.enable()


async def test_the_addresses_that_former_connections_keep_are_freed_for_the_next_one() -> None:
    flow = Flow(Each(handlers.add_one))
    with in_a_pipeline(flow):
        async with flow, beside(flow):
            engine = flow._lifecycle.engine
            assert isinstance(engine, RemoteEngine)
            gateway = pipeline_of(engine).gateway
            second = max(gateway.guests, key=lambda guest: guest.number)  # the pipeline goes on for it
            connection = engine._connection
            assert connection is not None
            with few_addresses(5 * connection.memory.arena.mapping.size):
                del connection
                for _ in range(6):  # each maps the memory twice
                    (guest,) = gateway.guests - {second}
                    guest._end()
                    await eventually(lambda: gateway.guests - {second})  # it has looked for the pipeline again
                    await eventually(lambda: engine._connection is not None)
                    assert isinstance(await outcome(flow.process(Job(number=1), DEADLINE)), Job)


async def test_memory_that_cannot_be_mapped_is_an_error_of_the_start() -> None:
    flow = Flow(Each(handlers.add_one))
    pipeline = Unmappable(flow._lifecycle.options)
    pipeline.is_mappable = False
    with flow._lifecycle.built_by(lambda options: RemoteEngine(options, pipeline)):
        with pytest.raises(StartError, match="the system gives it no shared memory") as raised:
            await flow.start_async()
        assert isinstance(raised.value.__cause__, OSError)
        await eventually(lambda: pipeline._end is not None and pipeline._end.done())
