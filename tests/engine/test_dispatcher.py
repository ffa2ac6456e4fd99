"""What the dispatcher makes of the frames of workers, whatever they are. The tests are the workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fastapi_aqueduct import FieldConflict, FlowStep, TaskTimeout, WorkerDied
from fastapi_aqueduct.engine.memory.flow_memory import FlowMemory
from fastapi_aqueduct.engine.memory.layout import Layout, Ref
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.memory.status_page import StatusPage
from fastapi_aqueduct.engine.route import FINISHED
from fastapi_aqueduct.engine.scheduling.caller import Caller
from fastapi_aqueduct.engine.scheduling.dispatcher import Dispatcher
from fastapi_aqueduct.engine.scheduling.entry import QueueEntry
from fastapi_aqueduct.engine.scheduling.stream import FlowStream
from fastapi_aqueduct.engine.shape import Shape
from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.wire.channel import make_pair
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import (
    Batch,
    Envelope,
    Kind,
    ProtocolError,
    Status,
    pack_batches,
    pack_offsets,
    unpack_batches,
)
from fastapi_aqueduct.engine.wire.joined import split_parts
from fastapi_aqueduct.engine.wire.window import GRANT, item_weight
from fastapi_aqueduct.engine.wire.worker_channel import WorkerChannel
from fastapi_aqueduct.engine.workers.handle import WorkerHandle
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import SpecMaker

from ..handlers import Each, Job, Whole
from ..support import DEADLINE

PID = 4321


class Peer:
    """A flow whose workers are sockets that the test reads and answers for.

    Args:
        *steps: Its steps, each with one worker.
        shape: Which of them run side by side; empty: none.
    """

    def __init__(self, *steps: FlowStep, shape: Shape = ()) -> None:
        self._layout = Layout(1 + len(steps), 1 << 20)
        self._memory_fd = create_memory("test", self._layout.size)
        self._mapping = Mapping(self._memory_fd, self._layout.size)
        self._memory = FlowMemory(self._mapping, self._layout)
        self._specs = SpecMaker("test", [(f"step{index}", step) for index, step in enumerate(steps)]).make_all()
        self._pools = [Pool(spec, [1 + spec.index]) for spec in self._specs]
        self.dispatcher = Dispatcher("test", self._pools, self._memory, 100, 1, shape=shape)
        self._caller = Caller(self.dispatcher, self._memory, QueueEntry(self.dispatcher, 100, self._memory.refusals))
        self._channels: dict[int, WorkerChannel] = {}
        for pool in self._pools:
            pool.observer = self.dispatcher
            self.add_worker(pool.index)
        self.dispatcher.attach(asyncio.get_running_loop())

    @property
    def workers(self) -> list[WorkerHandle]:
        """The last worker of each step."""
        return [pool.workers[-1] for pool in self._pools]

    def add_worker(self, step: int = 0) -> None:
        """Give a step a worker that is ready."""
        pool = self._pools[step]
        ours, theirs = make_pair()
        call_of = self._memory.arena.status.call_of
        worker = WorkerHandle(pool.spec, 0, 1 + step, ours, call_of, print, print)
        worker.pid = PID + step
        worker.state = WorkerState.READY
        pool.add(pool.slots[0], worker)
        pool.note_ready(worker)
        self._channels[step] = WorkerChannel(theirs)

    def close(self) -> None:
        """Close the sockets and the memory."""
        self.dispatcher.detach("the test is over")
        for pool in self._pools:
            for worker in pool.workers:
                worker.close()
        for channel in self._channels.values():
            channel.close()
        for spec in self._specs:
            spec.close()
        os.close(self._memory_fd)

    async def submit(self, count: int, timeout: float = 60.0, **fields: Any) -> list[asyncio.Task[None]]:
        """Have tasks processed; they are with the first worker when this returns."""
        jobs = [Job(number=number, **fields) for number in range(count)]
        calls = [asyncio.create_task(self._caller.process(job, timeout)) for job in jobs]
        await asyncio.sleep(0)  # the callers' turn, in which their tasks are queued
        await asyncio.sleep(0)  # the scheduler's
        return calls

    async def stream(self, item_timeout: float = 60.0) -> tuple[FlowStream[int], asyncio.Task[int]]:
        """Begin a stream, and wait for its first item; its task is with the first worker when this returns."""
        stream = self._caller.stream(Job(number=0), 60, item_timeout, contextlib.nullcontext)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return stream, reader

    def send_items(self, envelope: Envelope, *numbers: int, step: int = 0) -> None:
        """Send items of a task as a worker."""
        items = [envelope._replace(content=Encoded(b"", pickle.dumps(number, 5), ())) for number in numbers]
        self.dispatcher.receive(self.workers[step], Kind.ITEMS, pack_batches([Batch(items)]))

    def receive(self, step: int = 0, count: int = 1) -> list[Batch]:
        """Return the next ``count`` batches that a worker was sent, at least."""
        batches: list[Batch] = []
        while len(batches) < count:
            frames = self._channels[step].receive(timeout=DEADLINE)
            assert frames, f"the worker was sent {len(batches)} batches, not {count}"
            for kind, payload in frames:
                batches += unpack_batches(payload) if kind is Kind.TASKS else []
        return batches

    def frames(self, step: int = 0) -> list[tuple[Kind, bytes]]:
        """Return the next frames that a worker was sent."""
        return self._channels[step].receive(timeout=DEADLINE)

    def answer(self, number: int, envelopes: Iterable[Envelope], step: int = 0, duration: float = 0.001) -> None:
        """Answer to tasks of a batch as a worker."""
        payload = pack_batches([Batch(list(envelopes), duration, 0, number)])
        self.dispatcher.receive(self.workers[step], Kind.ANSWERS, payload)

    def note_call(self, id: int, step: int = 0) -> None:
        """Begin a call of the handler as a worker."""
        StatusPage(self._mapping.writable, self._layout, 1 + step).note_call(id, 0.0)

    def held_blocks(self) -> list[int]:
        """Return the offsets of the blocks that are held."""
        return self._memory.ledger.held_blocks()

    def lose(self, step: int = 0) -> None:
        """Have a worker die."""
        worker = self.workers[step]
        self._pools[step].remove(worker, WorkerDied(worker.name, worker.pid, -9))
        worker.close()
        self._channels.pop(step).close()


def finished(envelope: Envelope) -> Envelope:
    """Answer to a task that has no further step."""
    return envelope._replace(step=FINISHED, status=0)


async def test_batches_are_answered_in_any_order_and_in_parts() -> None:
    with contextlib.closing(Peer(FlowStep(Whole(print), batch_size=3, batch_timeout=60))) as peer:
        calls = await peer.submit(3)
        (batch,) = peer.receive()
        first, second, third = map(finished, batch.envelopes)
        peer.answer(batch.number, [second])
        await asyncio.wait([calls[1]])
        assert not calls[0].done() and not calls[2].done()
        assert len(peer.workers[0].in_flight) == 2
        peer.answer(batch.number, [third, first])
        await asyncio.gather(*calls)
        assert not peer.workers[0].in_flight


async def test_the_batch_delay_learns_from_calls_that_have_ended_but_the_first() -> None:
    """An early answer comes in the middle of a call; a first call may be slower by far."""
    with contextlib.closing(Peer(FlowStep(Whole(print), batch_size=3, batch_timeout="auto"))) as peer:
        delay = peer.dispatcher.stages[0].batch_delay
        assert delay is not None
        for has_learned in (False, True):
            calls = await peer.submit(3)
            (batch,) = peer.receive()
            first, second, third = map(finished, batch.envelopes)
            peer.answer(batch.number, [first], duration=0.5)
            peer.answer(batch.number, [second], duration=0.6)
            assert not delay.is_worthwhile
            peer.answer(batch.number, [third], duration=0.7)
            await asyncio.gather(*calls)
            assert delay.is_worthwhile == has_learned


async def test_a_later_batch_may_be_answered_first() -> None:
    with contextlib.closing(Peer(FlowStep(Each(print)))) as peer:
        for _ in range(10):  # until the worker is fed ahead
            (call,) = await peer.submit(1)
            (batch,) = peer.receive()
            peer.answer(batch.number, map(finished, batch.envelopes), duration=1e-5)
            await call
        calls = await peer.submit(1) + await peer.submit(1)
        one, two = peer.receive(count=2)
        peer.answer(two.number, map(finished, two.envelopes))
        await asyncio.wait([calls[1]])
        assert not calls[0].done()
        peer.answer(one.number, map(finished, one.envelopes))
        await calls[0]


async def test_each_step_numbers_its_own_batches() -> None:
    with contextlib.closing(Peer(FlowStep(Each(print)), FlowStep(Each(print)))) as peer:
        for _ in range(3):
            (call,) = await peer.submit(1)
            (batch,) = peer.receive(0)
            peer.answer(batch.number, [envelope._replace(step=1) for envelope in batch.envelopes])
            (batch,) = peer.receive(1)
            peer.answer(batch.number, map(finished, batch.envelopes), step=1)
            await call


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda number, one, two: (number + 1, [one, two]), "an answer to batch 2"),
        (lambda number, one, two: (number, [one, two._replace(id=77)]), "an answer to task 77"),
        (lambda number, one, two: (number, [one, one]), "an answer to task 1"),
        (lambda number, one, two: (number, []), "an answer to no task"),
        (lambda number, one, two: (number, [one, two._replace(step=0)]), "cannot go from step 0 to step 0"),
        (lambda number, one, two: (number, [one, two._replace(step=55)]), "cannot go from step 0 to step 55"),
        (lambda number, one, two: (number, [one, with_block(two)]), "block"),
        (lambda number, one, two: (number, [one, two._replace(status=Status.ERROR)]), "malformed exception"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_refused_and_its_worker_s_death_decides(
    make: Callable[[int, Envelope, Envelope], tuple[int, list[Envelope]]], message: str
) -> None:
    with contextlib.closing(Peer(FlowStep(Whole(print), batch_size=2, batch_timeout=60, max_retries=0))) as peer:
        calls = await peer.submit(2)
        (batch,) = peer.receive()
        number, envelopes = make(batch.number, *map(finished, batch.envelopes))
        with pytest.raises(ProtocolError, match=message):
            peer.answer(number, envelopes)
        peer.note_call(batch.envelopes[0].id)
        peer.lose()
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), DEADLINE)
        assert isinstance(ends[1], WorkerDied)
        assert peer.dispatcher.in_flight == 0


def patch(task: Envelope, step: int = FINISHED, name: str = "") -> Envelope:
    """Answer to a task with a patch of a field; without a name it has that of the step."""
    name = name or f"by_step{task.step}"
    body = len(name).to_bytes(4, "little") + name.encode() + pickle.dumps({name: True}, 5)
    return Envelope(task.id, 0.0, step, Status.PATCH, Encoded(b"", body, ()))


async def try_again(peer: Peer, task: Envelope, answer: Envelope, step: int = 0) -> None:
    """Lose the worker of a step whose answer was refused; its task is tried again as it came, and gets an answer."""
    peer.note_call(task.id, step)
    peer.lose(step)
    peer.add_worker(step)
    await asyncio.sleep(0)
    (again,) = peer.receive(step)
    assert [(one.id, one.content) for one in again.envelopes] == [(task.id, task.content)]
    peer.answer(again.number, [answer], step)


@pytest.mark.parametrize("size", [10, 40_000])
@pytest.mark.parametrize(
    ("answer", "message"), [({"step": 1, "marks": b"x"}, "malformed marks"), ({"step": 55}, "cannot go from step 0")]
)
async def test_a_task_whose_worker_s_answer_makes_no_sense_is_tried_again_as_it_came(
    size: int, answer: dict[str, Any], message: str
) -> None:
    """And not with what the step has made of it."""
    with contextlib.closing(Peer(FlowStep(Each(print)), FlowStep(Each(print), batch_key="number"))) as peer:
        calls = await peer.submit(1, data=bytes(size))
        (batch,) = peer.receive()
        (task,) = batch.envelopes
        handled = task.content._replace(body=pickle.dumps({"number": 7}, 5), blocks=())
        with pytest.raises(ProtocolError, match=message):
            peer.answer(batch.number, [task._replace(status=0, content=handled, **answer)])
        (ticket,) = peer.dispatcher._tickets.values()
        assert not ticket.metrics
        assert len(peer.held_blocks()) == len(task.content.blocks) == (size > 10)
        await try_again(peer, task, finished(task))
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)


@pytest.mark.parametrize("step", [FINISHED, 2])
async def test_a_branch_whose_worker_answers_with_a_whole_task_is_tried_again(step: int) -> None:
    steps = [FlowStep(Each(print)) for _ in range(4)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1", "step2"), ("step3",))))) as peer:
        calls = await peer.submit(1)
        (batch,) = peer.receive()
        peer.answer(batch.number, [batch.envelopes[0]._replace(step=~0b1010, status=0)])
        (one,), (other,) = peer.receive(1), peer.receive(3)
        with pytest.raises(ProtocolError, match="step1 answers with a whole task, and not with what it changed"):
            peer.answer(one.number, [one.envelopes[0]._replace(step=step, status=0)], 1)
        peer.answer(other.number, [patch(other.envelopes[0])], 3)
        await try_again(peer, one.envelopes[0], patch(one.envelopes[0]), 1)
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 55, ~0b11, ~0b1000])
async def test_a_branch_whose_worker_says_that_it_goes_elsewhere_is_tried_again_as_it_came(step: int) -> None:
    steps = [FlowStep(Each(print)) for _ in range(4)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1",), ("step2",)), "step3"))) as peer:
        calls = await peer.submit(1)
        (batch,) = peer.receive()
        peer.answer(batch.number, [batch.envelopes[0]._replace(step=~0b110, status=0)])
        (one,), (other,) = peer.receive(1), peer.receive(2)
        with pytest.raises(ProtocolError, match=f"cannot go from step 1 to step {step}"):
            peer.answer(one.number, [patch(one.envelopes[0], step)], 1)
        peer.answer(other.number, [patch(other.envelopes[0])], 2)
        await try_again(peer, one.envelopes[0], patch(one.envelopes[0]), 1)
        (last,) = peer.receive(3)
        peer.answer(last.number, map(finished, last.envelopes), 3)
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)
        assert not peer.held_blocks()


@pytest.mark.parametrize("answer", [{"step": 0}, {"step": 55}, {"status": Status.PASSED}])
async def test_a_shared_run_whose_worker_s_answer_makes_no_sense_is_tried_again_for_all(answer: Any) -> None:
    with contextlib.closing(Peer(FlowStep(Each(print), coalesce_key=bool), FlowStep(Each(print)))) as peer:
        calls = await peer.submit(3)
        (batch,) = peer.receive()
        (task,) = batch.envelopes
        with pytest.raises(ProtocolError, match="cannot go from step 0 to step|step0 passes on a task"):
            peer.answer(batch.number, [patch(task)._replace(**answer)])
        await try_again(peer, task, patch(task))
        for _ in range(2):  # the worker of the run knows only of the first task that it visits no further step
            await asyncio.sleep(0)
            (batch,) = peer.receive(1)
            peer.answer(batch.number, map(finished, batch.envelopes), 1)
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)
        assert not peer.held_blocks()


async def test_what_is_left_of_a_batch_is_tried_again_when_its_worker_dies() -> None:
    with contextlib.closing(Peer(FlowStep(Whole(print), batch_size=3, batch_timeout=60))) as peer:
        calls = await peer.submit(3)
        (batch,) = peer.receive()
        peer.answer(batch.number, [finished(batch.envelopes[1])])
        await calls[1]
        peer.note_call(batch.envelopes[0].id)
        peer.lose()
        peer.add_worker()
        for call, envelope in ((calls[0], batch.envelopes[0]), (calls[2], batch.envelopes[2])):
            await asyncio.sleep(0)
            (again,) = peer.receive()
            assert [one.id for one in again.envelopes] == [envelope.id]  # alone
            peer.answer(again.number, map(finished, again.envelopes))
            await call


def with_block(envelope: Envelope) -> Envelope:
    """Let an answer refer to a block that cannot be."""
    return envelope._replace(content=envelope.content._replace(blocks=(Ref(1 << 60, 77),)))


async def test_items_of_a_task_that_is_no_stream_or_is_not_there_are_refused() -> None:
    with contextlib.closing(Peer(FlowStep(Each(print)))) as peer:
        (call,) = await peer.submit(1)
        (batch,) = peer.receive()
        (task,) = batch.envelopes
        peer.dispatcher.receive(peer.workers[0], Kind.ITEMS, pack_batches([Batch([task._replace(id=77)])]))  # has ended
        with pytest.raises(ProtocolError, match=f"an item of task {task.id}"):
            peer.dispatcher.receive(peer.workers[0], Kind.ITEMS, pack_batches([Batch([task])]))
        with pytest.raises(ProtocolError, match="there is no block"):
            peer.dispatcher.receive(peer.workers[0], Kind.ITEMS, pack_batches([Batch([with_block(task)])]))
        peer.answer(batch.number, map(finished, batch.envelopes))
        await call


async def test_items_of_a_task_that_another_worker_has_are_refused() -> None:
    with contextlib.closing(Peer(FlowStep(Each(print)), FlowStep(Each(print)))) as peer:
        stream, reader = await peer.stream()
        (batch,) = peer.receive(0)
        (task,) = batch.envelopes
        peer.send_items(task, 1)
        assert await reader == 1
        peer.answer(batch.number, [task._replace(step=1, status=0)])
        (batch,) = peer.receive(1)
        with pytest.raises(ProtocolError, match=f"an item of task {task.id}, which has none or is not there"):
            peer.send_items(task, 2, step=0)
        with pytest.raises(ProtocolError, match="an item of task"):
            nothing = pack_batches([Batch([task._replace(content=Encoded(b"", b"", ()))])])
            peer.dispatcher.receive(peer.workers[1], Kind.ITEMS, nothing)
        peer.send_items(task, 3, step=1)
        peer.answer(batch.number, map(finished, batch.envelopes), step=1)
        assert [item async for item in stream] == [3]


async def test_a_worker_may_send_more_when_the_consumer_has_taken_half_a_window() -> None:
    """Whichever worker has the task then, and none when it is answered."""
    with contextlib.closing(Peer(FlowStep(Each(print)), FlowStep(Each(print)))) as peer:
        stream, reader = await peer.stream()
        (batch,) = peer.receive(0)
        (task,) = batch.envelopes
        weight = item_weight(Encoded(b"", pickle.dumps(1, 5), ()), task.content)
        half = -(-GRANT // weight)
        peer.send_items(task, *[1] * 3 * half)
        assert await reader == 1
        for _ in range(half - 1):
            assert await anext(stream) == 1
        assert peer.frames(0) == [(Kind.GRANT, pack_offsets([task.id, half * weight]))]
        peer.answer(batch.number, [task._replace(step=1, status=0)])
        (batch,) = peer.receive(1)
        for _ in range(half):
            assert await anext(stream) == 1
        assert peer.frames(1) == [(Kind.GRANT, pack_offsets([task.id, half * weight]))]
        peer.answer(batch.number, map(finished, batch.envelopes), step=1)
        assert [item async for item in stream] == [1] * half
        (call,) = await peer.submit(1)
        assert [kind for kind, _ in peer.frames(0)] == [Kind.TASKS]
        call.cancel()


async def test_a_task_that_is_settled_is_cancelled_in_the_hands_of_its_worker() -> None:
    with contextlib.closing(Peer(FlowStep(Each(print)))) as peer:
        (call,) = await peer.submit(1)
        (batch,) = peer.receive()
        call.cancel()
        await asyncio.wait([call])
        assert peer.frames() == [(Kind.CANCEL, pack_offsets([batch.envelopes[0].id]))]
        peer.answer(batch.number, map(finished, batch.envelopes))
        assert not peer.workers[0].in_flight


async def test_a_pause_of_the_process_is_not_charged_to_a_stream() -> None:
    """Its deadline moves with each item, which the timer learns when it fires."""
    with contextlib.closing(Peer(FlowStep(Each(print)))) as peer:
        stream, reader = await peer.stream(item_timeout=0.6)
        (batch,) = peer.receive()
        (task,) = batch.envelopes
        peer.send_items(task, 1)
        assert await reader == 1
        await asyncio.sleep(0.5)  # the deadline is near that was set with the first item
        peer.send_items(task, 2)
        assert await anext(stream) == 2
        began = time.monotonic()
        time.sleep(0.8)
        with pytest.raises(TaskTimeout):
            await anext(stream)
        assert time.monotonic() - began >= 0.6 + 0.8
        peer.answer(batch.number, map(finished, batch.envelopes))


async def test_a_pause_of_the_process_is_not_charged_to_a_branch() -> None:
    """Workers get the deadline of a branch with its next step, and skip what is late."""
    steps = [FlowStep(Each(print)) for _ in range(4)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1", "step2"), ("step3",))))) as peer:
        calls = await peer.submit(1, timeout=0.4)
        (batch,) = peer.receive()
        peer.answer(batch.number, [batch.envelopes[0]._replace(step=~0b1010, status=0)])
        (one,), (other,) = peer.receive(1), peer.receive(3)
        time.sleep(1.0)
        peer.answer(one.number, [patch(one.envelopes[0], 2)], 1)
        (two,) = peer.receive(2)
        assert one.envelopes[0].deadline < time.monotonic() < two.envelopes[0].deadline
        peer.answer(two.number, [patch(two.envelopes[0])], 2)
        peer.answer(other.number, [patch(other.envelopes[0])], 3)
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)


async def test_an_answer_that_comes_too_late_tells_where_the_other_branches_were() -> None:
    steps = [FlowStep(Each(print)) for _ in range(3)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1",), ("step2",))))) as peer:
        (call,) = await peer.submit(1, timeout=0.3)
        (batch,) = peer.receive()
        peer.answer(batch.number, [batch.envelopes[0]._replace(step=~0b110, status=0)])
        (one,) = peer.receive(1)
        time.sleep(0.4)  # of `PAUSE`, after which the time would not count, 0.4 s are left
        peer.answer(one.number, [patch(one.envelopes[0])], 1)
        late = r"it was in the hands of step step1 .*, and its answer came .*, and in the hands of step step2 "
        with pytest.raises(TaskTimeout, match=late):
            await asyncio.wait_for(call, DEADLINE)
        incidents = [stage.pool.incidents.recent() for stage in peer.dispatcher.stages]
        assert [len(found) for found in incidents] == [0, 1, 1]


async def test_patches_are_joined_and_not_read() -> None:
    """Each is passed on as it came; only its names are looked at."""
    steps = [FlowStep(Each(print)) for _ in range(4)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1",), ("step2",)), "step3"))) as peer:
        calls = await peer.submit(1)
        (batch,) = peer.receive()
        (task,) = batch.envelopes
        peer.answer(batch.number, [task._replace(step=~0b110, status=0)])
        (one,), (other,) = peer.receive(1), peer.receive(2)
        bodies = {1: b"no pickle of a field", 2: b"nor is this"}
        for step, branch in ((2, other), (1, one)):
            sent = patch(branch.envelopes[0])
            size = int.from_bytes(sent.content.body[:4], "little")
            content = sent.content._replace(body=sent.content.body[: 4 + size] + bodies[step])
            peer.answer(branch.number, [sent._replace(content=content)], step)
        (last,) = peer.receive(3)
        (ticket,) = peer.dispatcher._tickets.values()
        assert [record[0] for record in ticket.metrics] == ["step0", "step2", "step1"]  # in the order of the answers
        parts = split_parts(last.envelopes[0].content.body, ())
        assert [body for body, _ in parts] == [task.content.body, bodies[1], bodies[2]]
        peer.answer(last.number, [finished(task)._replace(id=last.envelopes[0].id)], 3)
        await asyncio.wait_for(asyncio.gather(*calls), DEADLINE)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_a_conflict_does_not_depend_on_which_branch_is_faster(order: tuple[int, int]) -> None:
    steps = [FlowStep(Each(print)) for _ in range(3)]
    with contextlib.closing(Peer(*steps, shape=("step0", (("step1",), ("step2",))))) as peer:
        (call,) = await peer.submit(1)
        (batch,) = peer.receive()
        peer.answer(batch.number, [batch.envelopes[0]._replace(step=~0b110, status=0)])
        for step in order:
            (branch,) = peer.receive(step)
            peer.answer(branch.number, [patch(branch.envelopes[0], name="same")], step)
        with pytest.raises(FieldConflict, match="in two branches of a group, step1 and step2") as caught:
            await asyncio.wait_for(call, DEADLINE)
        assert (caught.value.field, caught.value.branches) == ("same", ("step1", "step2"))
        found = [incident.subject for stage in peer.dispatcher.stages for incident in stage.pool.incidents.recent()]
        assert found == ["FieldConflict"]
