"""The engine's microbenchmarks: small pieces of it, each beside a loop that does what the engine is made of.

    python -m tests.benchmarks.subjects.micro clock   says how much longer than the loop each takes
    python -m tests.benchmarks.subjects.micro marks   is run by a tool that counts instructions between two marks

In both cases the engine sees a clock that advances by a fixed step at each look. What the engine decides by the
clock (how far a worker is prefetched, when answers are sent) is then the same in every run and under every tool.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import pickle
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FlowStep
from fastapi_aqueduct.engine.memory.arena import Arena
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.scheduling.queue import BatchQueue
from fastapi_aqueduct.engine.scheduling.ticket import Ticket
from fastapi_aqueduct.engine.wire.codec import Codec
from fastapi_aqueduct.engine.wire.frames import Batch, Envelope, FrameReader, Kind, pack, pack_batches, unpack_batches

from ..subject import say
from .inprocess import (
    MEMORY_LIMIT,
    LocalFlow,
    LocalStreamWorker,
    LocalWorker,
    make_program,
    make_setup,
)
from .raw_upload import RawUploadBench

TOGETHER = 32
"""Tasks that are on their way at the same time, where there are several."""

ITEMS = 50
"""Items of a stream: fewer than fill its window, or the buffer of a socket together with those of the others."""

LARGE = 16 * 1024
"""Bytes of a payload that moves to shared memory: no more, because the machine decides what copying costs."""

CLOCK_STEP = 5e-6
"""Seconds between two looks at the clock. A trip looks at it some eight times and takes 40 us."""

ROUNDS = 25


class Task(BaseTask):
    def __init__(self, number: int, payload: bytes | None = None) -> None:
        super().__init__()
        self.number = number
        self.name = "a name"
        self.score = 0.5
        self.payload = payload
        self.result: int | None = None


class Copy(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for task in tasks:
            task.result = task.number


class Generate(BaseTaskHandler):
    def handle(self, task: Task) -> Iterator[str]:
        for _ in range(task.number):
            yield "an item"


class Rounds(BaseTaskHandler):
    def handle(self, *tasks: Task) -> None:
        for live in self.rounds(tasks):
            for task in live:
                task.emit("an item")
                task.number -= 1
                if not task.number:
                    task.finish()


class Item:
    """What the reference loop works on: attributes on the class and on the object."""

    is_done = False

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = "a name"
        self.score = 0.5

    def finish(self, number: int) -> bool:
        if self.number != number:
            return False
        self.is_done = True
        return True


class Reference:
    """Does what the engine is made of, and nothing of the engine."""

    def __init__(self) -> None:
        self._struct = struct.Struct("<QdhBHII")
        self._waiting: deque[Item] = deque()
        self._items: dict[int, Item] = {}
        self._numbers = itertools.count(1)
        self._near, self._far = socket.socketpair()

    def run(self, count: int) -> None:
        for _ in range(count):
            parts = [self._send(next(self._numbers)) for _ in range(TOGETHER)]
            self._near.send(b"".join(parts))
            data = self._far.recv(1 << 16)
            position = 0
            for _ in range(TOGETHER):
                position = self._receive(data, position)

    def _send(self, number: int) -> bytes:
        item = Item(number)
        self._items[number] = item
        self._waiting.append(item)
        body = pickle.dumps(item.__dict__, 5)
        return self._struct.pack(number, item.score, 1, 2, 3, 4, len(body)) + body

    def _receive(self, data: bytes, position: int) -> int:
        number, score, _, _, _, _, size = self._struct.unpack_from(data, position)
        start = position + self._struct.size
        end: int = start + size
        fields = pickle.loads(data[start:end])
        item = self._items.pop(number)
        if self._waiting.popleft() is not item or not item.finish(fields["number"]):
            raise RuntimeError(f"{number} came back as {fields} with {score}")
        return end


class CodecBench:
    """Tasks to bytes and back."""

    def __init__(self, payload: bytes | None = None) -> None:
        layout = Layout(1, MEMORY_LIMIT)
        self._arena = Arena(Mapping(create_memory("micro", layout.size), layout.size), layout, 0, self._free)
        self._codec = Codec(self._arena)
        self._task = Task(1, payload)

    def run(self, count: int) -> None:
        for _ in range(count):
            self._codec.decode(self._codec.encode(self._task))
            self._arena.collect()

    def _free(self, offset: int) -> None:
        self._arena.free(offset)


class FramesBench:
    """Tasks in frames to the bytes of a channel and back."""

    def __init__(self) -> None:
        content = CodecBench()._codec.encode(Task(1))
        self._batches = [Batch([Envelope(number, 1e3, 1, 0, content)], 0.0, 1) for number in range(TOGETHER)]

    def run(self, count: int) -> None:
        reader = FrameReader()
        for _ in range(count):
            for _, payload in reader.feed(pack(Kind.TASKS, pack_batches(self._batches))):
                unpack_batches(payload)


class QueueBench:
    """A queue of a step that fills and is emptied."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        content = CodecBench()._codec.encode(Task(1))
        self._queue: BatchQueue[Ticket] = BatchQueue(4, 0.0, 2)
        self._records = [
            Ticket(number, Task(number), loop.create_future(), content, number % 2, 1e3, 0.0)
            for number in range(TOGETHER)
        ]

    def run(self, count: int) -> None:
        queue = self._queue
        for _ in range(count):
            for record in self._records:
                queue.push(record)
            while queue.count:
                queue.pop_batches(1.0, 2)


class WorkerBench:
    """A worker between the frame that brings tasks and the one that takes the answers."""

    def __init__(self) -> None:
        layout = Layout(2, MEMORY_LIMIT)
        content = CodecBench()._codec.encode(Task(1))
        batches = [Batch([Envelope(number, 1e6, 1, 0, content)], 0.0, 1) for number in range(TOGETHER)]
        program = make_program([FlowStep(Copy())])
        self._worker = LocalWorker(make_setup(layout), program, create_memory("micro", layout.size))
        self._frame = pack(Kind.TASKS, pack_batches(batches))

    def run(self, count: int) -> None:
        for _ in range(count):
            self._worker.sock.send(self._frame)
            self._worker.serve()
            self._worker.sock.recv(1 << 18)


class TripBench:
    """Tasks through the whole engine: dispatcher, channel, worker and back.

    Args:
        runner: Runs the event loop.
        steps: How many.
        callers: How many tasks are on their way.
        payload: A large field that travels with each.
    """

    def __init__(self, runner: asyncio.Runner, steps: int, callers: int, payload: bytes | None = None) -> None:
        self._runner = runner
        self._callers = callers
        self._payload = payload
        self._flow = runner.run(_start(steps))

    def run(self, count: int) -> None:
        self._runner.run(self._drive(count))

    async def _drive(self, count: int) -> None:
        await asyncio.gather(*[self._call(count) for _ in range(self._callers)])

    async def _call(self, count: int) -> None:
        for number in range(count):
            task = Task(number, self._payload)
            await self._flow.process(task)
            if task.result != number:
                raise RuntimeError(f"{number} came back as {task.result}")


class StreamBench:
    """Streams through the whole engine: each item from the handler to the consumer.

    Args:
        runner: Runs the event loop.
        step: The step.
        streams: How many are read at the same time.
    """

    def __init__(self, runner: asyncio.Runner, step: FlowStep, streams: int) -> None:
        self._runner = runner
        self._streams = streams
        self._flow = runner.run(_start_streams(step))

    def run(self, count: int) -> None:
        self._runner.run(self._drive(count))

    async def _drive(self, count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*[self._read() for _ in range(self._streams)])

    async def _read(self) -> None:
        read = 0
        async for _ in self._flow.stream(Task(ITEMS)):
            read += 1
        if read != ITEMS:
            raise RuntimeError(f"{read} of {ITEMS} items came")


async def _start_streams(step: FlowStep) -> LocalFlow:
    flow = LocalFlow(step, worker_class=LocalStreamWorker)
    await flow.start()
    return flow


async def _start(steps: int) -> LocalFlow:
    flow = LocalFlow(*[FlowStep(Copy()) for _ in range(steps)])
    await flow.start()
    return flow


Piece = tuple[Callable[[int], None], int]
"""A function that runs a piece a number of times, and the number that takes some ten milliseconds."""


def make_pieces(runner: asyncio.Runner) -> dict[str, Piece]:
    """Set up everything, the reference first."""
    large = bytes(LARGE)
    continuous = FlowStep(Rounds(), batch_size=TOGETHER, continuous=True)
    return {
        "reference": (Reference().run, 30),
        "a task to bytes and back": (CodecBench().run, 1000),
        "a task of 16 KiB to shared memory and back": (CodecBench(large).run, 250),
        "32 tasks to a frame and back": (FramesBench().run, 40),
        "32 tasks in and out of a queue": (QueueBench(runner.get_loop()).run, 60),
        "32 tasks through a worker": (WorkerBench().run, 16),
        "the trip of one task": (TripBench(runner, 1, 1).run, 100),
        "the trips of 32 tasks": (TripBench(runner, 1, TOGETHER).run, 10),
        "the trips of 32 tasks through three steps": (TripBench(runner, 3, TOGETHER).run, 5),
        "the trips of 32 tasks of 16 KiB": (TripBench(runner, 1, TOGETHER, large).run, 3),
        "50 items of a generator": (StreamBench(runner, FlowStep(Generate()), 1).run, 10),
        "50 items of each of 32 generators": (StreamBench(runner, FlowStep(Generate()), TOGETHER).run, 1),
        "50 items of each of 32 tasks in rounds": (StreamBench(runner, continuous, TOGETHER).run, 1),
        "a raw upload of 1 MiB": (RawUploadBench(runner).run, 10),
    }


def count(pieces: dict[str, Piece]) -> None:
    """Run each piece between two marks, and say what stands between them."""
    gc.disable()
    for run, times in pieces.values():
        run(1 + times // 5)  # what is made at the first use is there
        gc.collect()
        _mark()
        run(times)
        _mark()
    say({name: times for name, (_, times) in pieces.items()})


def _mark() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)  # a function of the C library that no other code calls


def clock(pieces: dict[str, Piece]) -> None:
    """Run each piece next to the reference, again and again, and say the ratios."""
    (reference, reference_times), *_ = pieces.values()
    ratios: dict[str, list[float]] = {name: [] for name in list(pieces)[1:]}
    for _ in range(ROUNDS):
        for name, values in ratios.items():
            run, times = pieces[name]
            before = _seconds(reference, reference_times)
            needed = _seconds(run, times) / times
            after = _seconds(reference, reference_times)
            values.append(needed / ((before + after) / 2 / reference_times))
    say({name: median(values) for name, values in ratios.items()})


def _seconds(run: Callable[[int], None], times: int) -> float:
    started = time.process_time()
    run(times)
    return time.process_time() - started


def main(way: str) -> None:
    time.monotonic = itertools.count(1000.0, CLOCK_STEP).__next__
    with asyncio.Runner() as runner:
        pieces = make_pieces(runner)
        {"clock": clock, "marks": count}[way](pieces)
        sys.stdout.flush()
        os._exit(0)  # nothing of this has to be put away


if __name__ == "__main__":
    main(sys.argv[1])
