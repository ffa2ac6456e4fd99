"""A runner, in the process of the test: what it answers, and that it keeps nothing of a task."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from fastapi_aqueduct import BaseTask, BaseTaskHandler
from fastapi_aqueduct.engine.child.parent_death import ParentDeathSignal
from fastapi_aqueduct.engine.child.return_check import ReturnCheck
from fastapi_aqueduct.engine.child.runners import PlainRunner
from fastapi_aqueduct.engine.child.setup import Setup
from fastapi_aqueduct.engine.child.worker import Worker
from fastapi_aqueduct.engine.memory.arena import THRESHOLD, Arena
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.memory.tenant import Tenant
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.wire.channel import make_pair
from fastapi_aqueduct.engine.wire.codec import Codec
from fastapi_aqueduct.engine.wire.failures import decode_error
from fastapi_aqueduct.engine.wire.frames import (
    Batch,
    Envelope,
    FrameReader,
    Kind,
    Status,
    pack,
    pack_batches,
    pack_offsets,
    unpack_batches,
)
from fastapi_aqueduct.engine.wire.worker_channel import WorkerChannel
from fastapi_aqueduct.runtime import task_hosts
from fastapi_aqueduct.worker import WorkerInfo

from ..handlers import Job


class Calls(BaseTaskHandler):
    """Does what its tasks say, and notes the numbers of those that come together."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.kept: list[Any] = []
        self.cancelled: list[bool] = []
        self.on_leave: Callable[[int], object] = lambda number: None

    def handle(self, *tasks: Any) -> None:
        self.calls.append([task.number for task in tasks])
        for task in tasks:
            task.length = len(task.payload)
            self.act(task)

    def act(self, task: Any) -> None:
        if task.act == "raise":
            raise ValueError(f"task {task.number}")
        if task.act == "fail":
            try:
                raise ValueError(f"task {task.number}")
            except ValueError as exc:
                task.fail(exc)
        if task.act == "leave":
            self.on_leave(task.number)
        if task.act in ("ask", "leave"):
            self.cancelled.append(task.is_cancelled)
        if task.act == "keep":
            self.kept.append(task)


class Bench:
    """A runner with its worker, and the API process's side of it in the same process."""

    def __init__(self, stack: ExitStack) -> None:
        layout = Layout(regions=2, limit=8 << 20)
        memory_fd = create_memory("test", layout.size)
        stack.callback(os.close, memory_fd)
        self.sock, theirs = make_pair()
        stack.callback(self.sock.close)
        channel = WorkerChannel(theirs)
        stack.callback(channel.close)
        read_end, write_end = os.pipe()
        stack.callback(os.close, write_end)
        parent_death_signal = ParentDeathSignal(read_end)
        stack.callback(os.close, parent_death_signal._fd)
        self.arena: Arena = Arena(Mapping(memory_fd, layout.size), layout, 0, lambda offset: None)
        self.codec = Codec(self.arena)
        self.handler = Calls()
        self.tenant = Tenant(Mapping(memory_fd, layout.size), layout, 1, {})
        info = WorkerInfo("flow", "step1", 0, 0, 1)
        setup = Setup(step=0, name="step1", may_run_again=True, layout=layout, region=1, blocks={}, info=info)
        worker = Worker(setup, Route([bool, bool]), channel, self.tenant, parent_death_signal)
        self.runner = PlainRunner(worker, self.handler, ReturnCheck("step1", "Calls"))

    def run(
        self, tasks: list[BaseTask], size: int, deadline: Callable[[int], float], extras: bytes = b""
    ) -> list[tuple[Kind, bytes]]:
        """Run tasks in one batch, and return the frames that come back."""
        contents = [self.codec.encode(task)._replace(extras=extras) for task in tasks]
        envelopes = [Envelope(number, deadline(number), 0, 0, content) for number, content in enumerate(contents)]
        self.sock.sendall(pack(Kind.TASKS, pack_batches([Batch(envelopes, 0.0, size)])) + pack(Kind.STOP))
        self.runner.run()
        return FrameReader().feed(self.sock.recv(1 << 20))


@contextmanager
def make_bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def in_time(number: int) -> float:
    return time.monotonic() + 60


def jobs(*acts: str) -> list[BaseTask]:
    return [Job(number=number, act=act, payload=bytes(THRESHOLD)) for number, act in enumerate(acts)]


def answers(frames: list[tuple[Kind, bytes]]) -> list[Envelope]:
    (payload,) = [payload for kind, payload in frames if kind is Kind.ANSWERS]
    (batch,) = unpack_batches(payload)
    return batch.envelopes


@pytest.mark.parametrize("acts", [["work"] * 3, ["work", "raise", "work"], ["work", "fail", "raise"]])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_no_reference_to_a_task_is_left_when_its_batch_is_answered(acts: list[str], size: int) -> None:
    with make_bench() as bench:
        gc.disable()  # what a cycle keeps must count as kept
        try:
            frames = bench.run(jobs(*acts), size, in_time)
        finally:
            gc.enable()
        expected = [Status.OK if act == "work" else Status.ERROR for act in acts]
        assert [envelope.status for envelope in answers(frames)] == expected
        assert [kind for kind, _ in frames] == [Kind.ANSWERS]
        assert not bench.tenant.arena.leases


def test_tasks_that_were_cancelled_before_they_are_begun_are_skipped() -> None:
    with make_bench() as bench:
        bench.sock.sendall(pack(Kind.CANCEL, pack_offsets([0, 2])))
        frames = bench.run(jobs("work", "work", "work"), 1, in_time)
        assert bench.handler.calls == [[1]]
        assert [envelope.status for envelope in answers(frames)] == [Status.EXPIRED, Status.OK, Status.EXPIRED]
        assert not bench.tenant.arena.leases


@pytest.mark.parametrize("size", [0, 1])
def test_a_task_learns_during_the_call_that_it_was_cancelled(size: int) -> None:
    with make_bench() as bench:
        bench.handler.on_leave = lambda number: bench.sock.sendall(pack(Kind.CANCEL, pack_offsets([number])))
        task_hosts.append(bench.runner.hand)
        try:
            bench.run(jobs("ask", "leave", "ask"), size, in_time)
        finally:
            task_hosts.clear()
        assert bench.handler.cancelled == [False, True, False]
        assert not bench.tenant.arena.leases


def test_a_task_that_the_handler_keeps_is_reported_before_its_answer() -> None:
    with make_bench() as bench:
        frames = bench.run(jobs("work", "keep"), 0, in_time)
        assert [kind for kind, _ in frames] == [Kind.RETAINED, Kind.ANSWERS]
        (kept,) = bench.tenant.arena.leases
        assert kept == answers(frames)[1].content.blocks[0].offset


def test_a_batch_that_failed_is_run_again_one_by_one() -> None:
    with make_bench() as bench:
        frames = bench.run(jobs("work", "raise", "work"), 0, in_time)
        assert bench.handler.calls == [[0, 1, 2], [0], [1], [2]]
        assert [envelope.status for envelope in answers(frames)] == [Status.OK, Status.ERROR, Status.OK]
        error = decode_error(answers(frames)[1].content.body, "step1")
        assert (type(error), str(error)) == (ValueError, "task 1")


@pytest.mark.parametrize("size", [0, 1])
def test_a_task_that_has_expired_is_not_run(size: int) -> None:
    with make_bench() as bench:
        frames = bench.run(jobs("work", "work"), size, lambda number: time.monotonic() + 60 * number)
        assert bench.handler.calls == [[1]]
        assert [envelope.status for envelope in answers(frames)] == [Status.EXPIRED, Status.OK]


def test_extras_go_on_to_the_next_step() -> None:
    with make_bench() as bench:
        (answer,) = answers(bench.run(jobs("work"), 1, in_time, extras=b"a context"))
        assert (answer.step, answer.content.extras) == (1, b"a context")
