"""Frames of each kind with any content: an end that cannot read one ends the connection, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastapi_aqueduct import Flow
from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.route import FINISHED
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.packed_handler import PackedHandler
from fastapi_aqueduct.engine.shared.remote_logs import Logged
from fastapi_aqueduct.engine.shared.replacements import Replacement
from fastapi_aqueduct.engine.shared.requests import Answered, AnsweredPair, Done, Failed, Reported, Request
from fastapi_aqueduct.engine.shared.status import GuestReport, address
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import Envelope, Kind, Status, pack, pack_batches, pack_offsets
from fastapi_aqueduct.engine.wire.log_levels import LogLevels

from .. import handlers
from ..handlers import Each, Job
from ..support import DEADLINE, eventually, outcome
from .pipeline import LoopPipeline, in_a_pipeline, pipeline_of
from .test_guest import beside, has_ended

EXAMPLES = [100, pytest.param(1500, marks=pytest.mark.long)]
"""Numbers of frames: the same few each time, or many others."""

HEADER = struct.calcsize("<IB")

words = st.integers(0, 2**64 - 1) | st.integers(0, 5)
refs = st.builds(Ref, words, st.integers(0, 2**63 - 1) | st.just(100), st.booleans())
contents = st.builds(Encoded, st.binary(max_size=40), st.binary(max_size=100), st.lists(refs, max_size=2).map(tuple))
envelopes = st.builds(
    Envelope,
    words,
    st.floats() | st.just(1e9),
    st.integers(FINISHED, 1) | st.integers(-100, 1000),
    st.sampled_from(Status) | st.integers(0, 127),
    contents,
)
batches = st.lists(
    st.tuples(
        st.lists(envelopes, max_size=2),
        st.just(0.0) | st.floats(width=32),
        st.just(0) | st.integers(0, 2**32 - 1),
        st.just(0) | st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=2,
).map(pack_batches)
numbers = st.lists(words, max_size=5).map(pack_offsets)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**70) | st.floats() | st.text(max_size=5) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
some = st.just(1) | plain
arguments = st.lists(plain, max_size=3).map(tuple)
names = st.sampled_from("replace resize restart restore canary shadow promote close next_pair cancel".split())


def pickled(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return payloads of messages, some of them cut off."""
    whole = messages.map(lambda message: pickle.dumps(message, 5))
    return whole | st.tuples(whole, st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])


def frames(payloads: dict[Kind, st.SearchStrategy[bytes]]) -> st.SearchStrategy[bytes]:
    """Return frames of all kinds: with payloads that look like those of their kind, and with any bytes."""
    alike = st.one_of([payload.map(lambda data, kind=kind: pack(kind, data)) for kind, payload in payloads.items()])  # type: ignore[misc]
    cut = st.tuples(alike, st.integers(1, 30)).map(
        lambda part: pack(Kind(part[0][HEADER - 1]), part[0][HEADER : -part[1]])
    )
    kinds = [kind for kind in Kind if kind is not Kind.STOPPING]  # which makes sense without any content
    other = st.builds(pack, st.sampled_from(kinds), st.binary(max_size=40))
    return alike | cut | other


reports = st.builds(GuestReport, plain, plain, plain, plain, plain)
TO_PIPELINE = frames(
    {
        Kind.TASKS: batches,
        Kind.CANCEL: numbers,
        Kind.RELEASED: numbers,
        Kind.GRANT: numbers,
        Kind.WAKE: numbers,
        Kind.STATUS: pickled(reports | plain),
        Kind.CALL: pickled(st.builds(Request, plain, names | plain, arguments | plain) | plain),
        Kind.LEVELS: pickled(st.tuples(plain, plain) | st.builds(lambda level: (0, {"root": level}), plain)),
    }
)

answered = st.builds(Answered, plain, contents, plain)
TO_API_PROCESS = frames(
    {
        Kind.ANSWERS: batches,
        Kind.ITEMS: batches,
        Kind.RELEASE: numbers,
        Kind.STATUS: st.tuples(words, pickled(plain | reports)).map(lambda part: address(*part)),
        Kind.LOG: pickled(plain | st.builds(Logged, st.just("step1_Each"), some, some, some, plain, plain)),
        Kind.RESULT: pickled(
            st.builds(Done, plain, plain)
            | st.builds(Failed, plain, plain)
            | st.builds(AnsweredPair, plain, answered, answered)
            | st.builds(Reported, plain, plain)
            | plain
        ),
        Kind.REPLACED: pickled(st.builds(Replacement, plain, plain, plain | st.builds(PackedHandler, st.binary()))),
    }
)


class Watch(logging.Handler):
    """Notes what must not happen: errors that nothing handles, and frames that are handled only half.

    Attributes:
        seen: What has happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if " has failed: " in record.getMessage():
            self.seen.append(record.getMessage())

    def note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception in the event loop."""
        self.seen.append(repr(context))


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch the running of a pipeline; levels of loggers that it sets are those from before at the end."""
    watch, log = Watch(), logging.getLogger("fastapi_aqueduct")
    before = LogLevels.read()
    log.addHandler(watch)
    try:
        yield watch
    finally:
        log.removeHandler(watch)
        before.apply()


@contextlib.asynccontextmanager
async def serving(watch: Watch) -> AsyncIterator[tuple[Flow, LoopPipeline]]:
    """Run a flow in a pipeline."""
    flow = Flow(Each(handlers.add_one))
    asyncio.get_running_loop().set_exception_handler(watch.note)
    with in_a_pipeline(flow):
        async with flow:
            engine = flow._lifecycle.engine
            assert isinstance(engine, RemoteEngine)
            yield flow, pipeline_of(engine)


async def answers(flow: Flow) -> bool:
    """Tell whether the flow does its work."""
    done = await outcome(flow.process(Job(number=1), DEADLINE))
    return isinstance(done, Job) and done.number == 2


@pytest.mark.parametrize("count", EXAMPLES)
def test_an_api_process_that_sends_garbled_frames_is_cut_off(count: int) -> None:
    with watched() as watch, asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        flow, pipeline = runner.run(stack.enter_async_context(serving(watch)))

        async def attempt(frame: bytes) -> None:
            async with beside(flow) as end:
                # A frame that makes sense by chance ends nothing.
                end.sock.sendall(frame + pack(Kind.LEAVE))
                await eventually(lambda: has_ended(end.sock))
            assert await answers(flow)
            flow.statistics()
            assert not watch.seen

        def run(frame: bytes) -> None:
            runner.run(attempt(frame))

        _examples(run, TO_PIPELINE, count)
        runner.run(eventually(lambda: not pipeline.engine.memory.ledger.held_blocks()))
        runner.run(stack.aclose())


@pytest.mark.parametrize("count", EXAMPLES)
def test_a_pipeline_that_sends_garbled_frames_is_left_and_looked_for_again(count: int) -> None:
    with watched() as watch, asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        flow, pipeline = runner.run(stack.enter_async_context(serving(watch)))
        runner.run(stack.enter_async_context(beside(flow)))  # the pipeline goes on when the other one leaves it
        second = max(pipeline.gateway.guests, key=lambda guest: guest.number)

        async def attempt(frame: bytes) -> None:
            (guest,) = pipeline.gateway.guests - {second}
            task = asyncio.ensure_future(outcome(flow.process(Job(number=1), DEADLINE)))
            await asyncio.sleep(0)
            guest.send(frame)
            await task
            await outcome(flow.process(Job(number=1), DEADLINE))
            flow.statistics()
            if guest in pipeline.gateway.guests:
                guest._end()
            started = time.monotonic()
            while not await answers(flow):
                assert time.monotonic() < started + DEADLINE
                await asyncio.sleep(0.001)
            assert not watch.seen

        def run(frame: bytes) -> None:
            runner.run(attempt(frame))

        _examples(run, TO_API_PROCESS, count)
        runner.run(stack.aclose())


def _examples(run: Callable[[bytes], None], of: st.SearchStrategy[bytes], count: int) -> None:
    options = settings(
        max_examples=count,
        deadline=None,
        derandomize=count == EXAMPLES[0],
        suppress_health_check=list(HealthCheck),
    )
    options(given(of)(run))()
