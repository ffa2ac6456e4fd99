"""The flow of a user whose tasks are recorded and replayed; a test writes it into a directory of its own."""

from __future__ import annotations

SOURCE = '''
import asyncio
import ctypes
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, Recorder, in_worker, worker_info

FIXED = False                                    # a test changes this line


@dataclass
class Scan(BaseTask):
    fault: str
    pixels: Any = None
    words: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


class Prepare(BaseTaskHandler):
    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.words.append("prepared")
            task.pixels = np.zeros(100_000, np.uint8)


class Read(BaseTaskHandler):
    def on_start(self) -> None:
        self.model = "model of " + worker_info().step

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            task.seen.append(self.model)
            if not FIXED:
                fail(task)


class Stream(BaseTaskHandler):
    async def on_start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def handle(self, task: Scan) -> Any:
        assert asyncio.get_running_loop() is self.loop
        task.seen.append("streamed")
        for word in task.words:
            yield word
        if task.fault == "late" and not FIXED:
            await sleep("in the frame")
        if task.fault == "blocked" and not FIXED:
            block("in the frame")
        if task.fault == "last" and not FIXED:
            raise LookupError("at the end")


async def sleep(waits: str) -> None:
    await asyncio.Event().wait()


def block(holds: str) -> None:
    time.sleep(3600)


def fail(task: Scan) -> None:
    secret = "in the frame"
    if task.fault == "hang" or "HANG" in os.environ:
        open("hanging", "w").close()
        while True:
            time.sleep(0.01)
    if task.fault == "raise":
        raise ValueError("no [text]")
    if task.fault == "fail":
        task.fail(KeyError(secret))
    if task.fault == "write":
        task.pixels[0] = 1
    if task.fault == "unpicklable":
        task.seen = lambda: None
    if task.fault == "exit":
        os._exit(0)
    if task.fault == "crash":
        ctypes.string_at(0)


def is_streamed(task: Scan) -> bool:
    return task.fault != "skip"


flow = Flow(
    FlowStep(Prepare(), name="prepare"),
    FlowStep(Read(), name="read", handle_timeout=1.0),
    FlowStep(Stream(), is_streamed, name="stream", handle_timeout=1.0),
    name="scans",
    mp_start_method="forkserver",
    recorder=Recorder("failures"),
)


@in_worker
def length(text: str) -> int:
    if not FIXED:
        raise RuntimeError(text)
    return len(text)


length.flow.recorder = Recorder("failures")


async def main(faults: list[str]) -> None:
    if "call" in faults:
        async with length.flow:
            await asyncio.gather(length("some text"), return_exceptions=True)
    async with flow:
        for fault in faults:
            try:
                await flow.process(Scan(fault), 60)
            except Exception as exc:
                print(type(exc).__name__)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
'''
