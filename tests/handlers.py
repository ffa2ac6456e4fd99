"""What the tests run in worker processes: tasks, handlers, and functions for them.

Imports little, since each worker of each test imports it.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler

DEADLINE = 30.0
"""Seconds after which a worker no longer waits for a test that has gone wrong."""

LOCK = threading.Lock()
"""Held by a thread of the API process while a flow starts."""


class Job(BaseTask):
    """A task with any fields."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Has whatever fields a test gives it, and its handlers set."""

    payload: Any

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.__dict__.update(fields)


class Bare(BaseTask):
    """A task that forgets ``super().__init__()``."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass
class Ticket(BaseTask):
    """A task that is a dataclass, with a default on the class."""

    number: int
    payload: bytes = b""
    seen: list[int] = field(default_factory=list)


class Trimmed(BaseTask):
    """A task that says what travels, and makes the rest again."""

    def __init__(self, number: int, image: Any = None, payload: bytes = b"") -> None:
        self.number = number
        self.image = image
        self.payload = payload
        self.seen = 0
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["number"] < 0:
            raise ValueError("a negative number")
        self.__dict__.update(state)
        self.lock = threading.Lock()
        self.seen += 1


class Tuple(BaseTask):
    """A task whose state is no dict and leaves the fields of tasks out."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return (self.number, self)

    def __setstate__(self, state: Any) -> None:
        self.number, self.same = state


class Keyed(BaseTask):
    """A task whose state is a dict with a key that is no name."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return {0: self.number}

    def __setstate__(self, state: Any) -> None:
        self.number = state[0]


class Each(BaseTaskHandler):
    """Calls functions, one after the other, for each task.

    Args:
        functions: Functions of a module.
    """

    def __init__(self, *functions: Callable[[Any], object]) -> None:
        self.functions = functions

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            for function in self.functions:
                function(task)


class Whole(BaseTaskHandler):
    """Calls a function for a whole batch."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def handle(self, *tasks: Any) -> None:
        self.function(*tasks)


class Starting(BaseTaskHandler):
    """Calls a function when a worker starts."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def on_start(self) -> None:
        self.function()

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.pid = os.getpid()


class StartingOnce(Starting):
    """Calls a function when a worker starts, but only where a file is there."""

    def __init__(self, function: Callable[[], object], path: Path) -> None:
        super().__init__(function)
        self.path = path

    def on_start(self) -> None:
        if self.path.exists():
            self.function()


class Noting(BaseTaskHandler):
    """Writes the course of its life to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self) -> None:
        note(self.path, "start")

    def handle(self, *tasks: Any) -> None:
        note(self.path, "handle")

    def on_stop(self) -> None:
        note(self.path, "stop")


class Yielding(BaseTaskHandler):
    """Yields what a function makes of a task, and notes the end of the generator if the task has a path."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def handle(self, task: Any) -> Any:
        try:
            yield from self.function(task)
            task.total = task.count
            task.pid = os.getpid()
        finally:
            if "path" in task.__dict__:
                note(task.path, "closed")


class Rounds(BaseTaskHandler):
    """Emits the numbers below the count of each task, one in each round."""

    def handle(self, *tasks: Any) -> None:
        position: dict[str, int] = {}
        for live in self.rounds(tasks):
            self.widest = max(getattr(self, "widest", 0), len(live))
            for task in live:
                number = position.get(task.task_id, 0)
                position[task.task_id] = number + 1
                act_in_round(task, number)
                if number < task.count:
                    task.emit(number)
                else:
                    task.widest = self.widest
                    task.total = task.count
                    task.finish()


class Emitting(BaseTaskHandler):
    """Emits the numbers below the count of each task, in a plain call."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            for number in range(task.count):
                act_in_round(task, number)
                task.emit(number)
            act_in_round(task, task.count)
            task.total = task.count


class Awaiting(BaseTaskHandler):
    """Emits the numbers below the count of each task, in a coroutine."""

    async def handle(self, *tasks: Any) -> None:
        for task in tasks:
            for number in range(task.count):
                await act_in_loop(task, number)
                task.emit(number)
                if number % 16 == 15:
                    await pause()
            await act_in_loop(task, task.count)
            task.total = task.count


class AsyncYielding(BaseTaskHandler):
    """Yields what a function makes of a task, in an asynchronous generator; as `Yielding`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    async def handle(self, task: Any) -> Any:
        try:
            async for item in self.function(task):
                yield item
            task.total = task.count
            task.pid = os.getpid()
        finally:
            if "path" in task.__dict__:
                note(task.path, "closed")


class InLoop(BaseTaskHandler):
    """Calls a coroutine function for each batch, side by side.

    Args:
        function: A coroutine function of a module.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    async def handle(self, *tasks: Any) -> None:
        await self.function(*tasks)


class Keeper(BaseTaskHandler):
    """Keeps values of the task after its end."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            if task.keep:
                self.kept.append(task.image)
            task.kept_sums = [int(kept.sum()) for kept in self.kept]
            if task.let_go:
                self.kept.clear()
            task.image = None


class Heavy(BaseTaskHandler):
    """Is large, as one that loads its model too early.

    Args:
        size: Bytes of it.
    """

    def __init__(self, size: int) -> None:
        self.model = bytes(size)

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.size = len(self.model)
            task.pid = os.getpid()


class Node:
    """Belongs to a task."""

    def __init__(self, task: Any) -> None:
        self.task = task


class Gate:
    """Holds handlers until the test opens it.

    Args:
        directory: A directory of the test.
        name: Tells the gates of a test apart.
    """

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self._entered = directory / f"{name}.entered"
        self._opened = directory / f"{name}.opened"

    def is_entered(self) -> bool:
        """Tell whether a handler waits or has waited here."""
        return self._entered.exists()

    def open(self) -> None:
        """Let all handlers continue."""
        self._opened.touch()

    def is_held(self) -> bool:
        """Enter without waiting, in a worker; tell whether it must wait."""
        self._entered.touch()
        return not self._opened.exists()

    def enter(self) -> None:
        """Wait, in a worker."""
        self.note_entry()
        deadline = time.monotonic() + DEADLINE
        while not self.is_open() and time.monotonic() < deadline:
            time.sleep(0.002)

    def note_entry(self) -> None:
        """Note that a handler waits here, which does so itself."""
        note(self._entered, os.getpid())

    def entrants(self) -> list[int]:
        """List the workers in which handlers have waited here."""
        return [int(pid) for pid in notes(self._entered)]

    def is_open(self) -> bool:
        """Tell whether the test has opened it."""
        return self._opened.exists()


def note(path: Path, line: object) -> None:
    """Append a line to a file in one piece."""
    with open(path, "a") as file:
        file.write(f"{line}\n")


def notes(path: Path) -> list[str]:
    """Read what was noted."""
    return path.read_text().split() if path.exists() else []


def act_in_round(task: Any, number: int) -> None:
    """Do what a task says before its item of this number."""
    if number != getattr(task, "at", None):
        return
    if task.act == "raise":
        raise ValueError(f"at {number}")
    if task.act == "fail":
        task.fail(ValueError(f"at {number}"))
    if task.act == "emit late":
        task.finish()
        task.emit("late")
    if task.act == "unpicklable":
        task.emit(threading.Lock())
    if task.act == "gate":
        task.gate.enter()
    if task.act == "wait":
        time.sleep(task.seconds)
    if task.act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.act == "die once" and not Path(task.mark).exists():
        Path(task.mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def act_at_once(task: Any) -> None:
    """Do what a task says."""
    act_in_round(task, task.at)


async def pause(seconds: float = 0.0) -> None:
    """Let the others of an event loop run."""
    import asyncio  # few workers need it

    await asyncio.sleep(seconds)


async def act_in_loop(task: Any, number: int) -> None:
    """As `act_in_round`, in an event loop, which it does not block."""
    if number == getattr(task, "at", None) and task.act == "gate":
        await enter_gate_in_loop(task)
    elif number == getattr(task, "at", None) and task.act == "wait":
        await pause(task.seconds)
    else:
        act_in_round(task, number)


# Functions of tasks


def nap(task: Any) -> None:
    time.sleep(task.seconds)


def end_process(task: Any) -> None:
    if task.cause == "exit":
        os._exit(3)
    if task.cause == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.cause == "hang":
        time.sleep(DEADLINE)


async def sleep_in_loop(task: Any) -> None:
    await pause(task.seconds)


async def enter_gate_in_loop(task: Any) -> None:
    task.gate.note_entry()
    while not task.gate.is_open():
        await pause(0.002)


async def count_up_in_loop(task: Any) -> Any:
    for number in range(task.count):
        await act_in_loop(task, number)
        yield threading.Lock() if number == getattr(task, "at", None) and task.act == "yield lock" else number
    await act_in_loop(task, task.count)


async def run_for_ever_in_loop(task: Any) -> Any:
    number = 0
    while True:
        yield number
        number += 1


def count_up(task: Any) -> Any:
    for number in range(task.count):
        act_in_round(task, number)
        yield threading.Lock() if number == getattr(task, "at", None) and task.act == "yield lock" else number
    act_in_round(task, task.count)


def count_up_after_gate(task: Any) -> Any:
    enter_gate_if_any(task)
    yield from count_up(task)


def yield_deadline(task: Any) -> Any:
    seen = task.expiration_time, task.is_expired()
    task.seen = [seen]
    yield seen


def count_up_with_pauses(task: Any) -> Any:
    for number in range(task.count):
        yield number
        yield None
        yield


def repeat_payload(task: Any) -> Any:
    for number in range(task.count):
        yield task.payload[number:] if task.is_slice else bytes(task.payload)


def run_for_ever(task: Any) -> Any:
    if "gate" in task.__dict__:
        task.gate.enter()
    number = 0
    while True:
        yield number
        number += 1


def take_turns_or_die(task: Any) -> Any:
    for number in range(task.count):
        time.sleep(task.seconds)
        if task.is_deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number


def yield_not_rebuildable(task: Any) -> Any:
    yield 0
    yield NotRebuildable(task.caller)


def take_turns(task: Any) -> Any:
    for number in range(task.count):
        time.sleep(task.seconds)
        yield number


def pass_on(task: Any) -> None:
    pass


def add_node(task: Any) -> None:
    assert task.node.task is task
    task.nodes = [task.node, Node(task)]


def make_writeable(task: Any) -> None:
    task.image.flags.writeable = True


def add_one(task: Any) -> None:
    task.number += 1


def double(task: Any) -> None:
    task.number *= 2


def enter_gate(task: Any) -> None:
    task.gate.enter()


def enter_gate_if_any(task: Any) -> None:
    if getattr(task, "gate", None) is not None:
        task.gate.enter()


def write_down(task: Any) -> None:
    note(task.path, task.number)


def tell_pid(task: Any) -> None:
    task.pid = os.getpid()


def wait_for_deadline(task: Any) -> None:
    note(task.path, task.is_expired())
    while not task.is_expired():
        time.sleep(0.002)
    note(task.path, task.is_expired())


def describe_interpreter(task: Any) -> None:
    task.interpreter = (str(sys.flags), sys.warnoptions, sys._xoptions)


def list_modules(task: Any) -> None:
    task.modules = set(sys.modules)


def work_until_cancelled(task: Any) -> None:
    note(task.path, "begun")
    deadline = time.monotonic() + DEADLINE
    while not task.is_cancelled and time.monotonic() < deadline:
        time.sleep(0.002)
    note(task.path, "cancelled" if task.is_cancelled else "late")


def ask_whether_cancelled(task: Any) -> None:
    task.was_cancelled = task.is_cancelled


def work_a_while(task: Any) -> None:
    sum(range(200_000))


def spin(task: Any) -> None:
    Path(task.path).touch()
    while True:
        pass


def kill_itself(task: Any) -> None:
    os.kill(os.getpid(), task.signal)


def exit_at_once(task: Any) -> None:
    os._exit(task.code)


def set_unpicklable(task: Any) -> None:
    task.lock = threading.Lock()


def set_not_rebuildable(task: Any) -> None:
    task.result = NotRebuildable(task.pid)


def drop_image(task: Any) -> None:
    task.image = None


def describe_image(task: Any) -> None:
    image = task.image
    task.seen = {
        "type": type(image).__name__,
        "shape": image.shape,
        "strides": image.strides,
        "dtype": image.dtype,
        "writeable": image.flags.writeable,
        "aligned": image.flags.aligned,
        "address": image.__array_interface__["data"][0],
        "owner": image.flags.owndata,
        "f": image.flags.f_contiguous,
    }


def write_into_image(task: Any) -> None:
    task.image[...] = 7


def replace_image(task: Any) -> None:
    task.image = task.image + 1


def crop_image(task: Any) -> None:
    task.crop = task.image[10:-10, 20:-20:2]
    task.image = None


def make_large(task: Any) -> None:
    import numpy as np

    task.image = np.full(task.size, task.number % 251, dtype=np.uint8)


def sum_up(task: Any) -> None:
    task.total = int(task.image.sum())


def look_at_payload(task: Any) -> None:
    task.was_copied = "payload" in vars(task)
    task.kind = type(task.payload).__name__
    task.length = len(task.payload)


def tell_whether_copied(task: Any) -> None:
    task.was_copied = "payload" in vars(task)


def change_payload(task: Any) -> None:
    task.payload[:4] = b"HEAD"


def replace_payload(task: Any) -> None:
    task.payload = b"new" * 10_000


def delete_payload(task: Any) -> None:
    del task.payload


def switch_collector_off(task: Any) -> None:
    gc.disable()


def keep_in_cycle(task: Any) -> None:
    cycle: list[Any] = [task.image]
    cycle.append(cycle)
    task.image = None


def fail_or_raise(*tasks: Any) -> None:
    """Fail the tasks that ask for it, each with an exception that was caught, and then raise for another."""
    gc.disable()
    for task in tasks:
        if task.fails:
            try:
                raise ValueError("fails")
            except ValueError as exc:
                task.fail(exc)
    if not all(task.fails for task in tasks):
        raise KeyError("raises")


def share_image(task: Any) -> None:
    task.share_value("image")


def share_anew(task: Any) -> None:
    task.image = task.image + 5
    task.share_value("image")


def set_result(task: Any) -> None:
    task.result = task.number * 10


def fork_a_child(task: Any) -> None:
    import multiprocessing

    child = multiprocessing.get_context("spawn").Process(target=note, args=(task.path, "child"))
    child.start()
    child.join()
    task.exit_code = child.exitcode


# Functions of batches


def tell_batch(*tasks: Any) -> None:
    for task in tasks:
        task.batch = [other.number for other in tasks]


def tell_batch_in_a_while(*tasks: Any) -> None:
    time.sleep(0.02)
    tell_batch(*tasks)


def tell_batch_at_gate(*tasks: Any) -> None:
    for task in tasks:
        enter_gate_if_any(task)
    tell_batch(*tasks)


def fail_odd_ones(*tasks: Any) -> None:
    for task in tasks:
        if task.number % 2:
            task.fail(ValueError(f"{task.number} is odd"))
        else:
            task.number *= 10


def fail_with_text_if_any(task: Any) -> None:
    if task.text is not None:
        task.fail(task.text)


# Functions that raise


class OddError(Exception):
    """An exception whose class cannot be called with its ``args``."""

    def __init__(self, first: str, *, second: str) -> None:
        super().__init__(f"{first} {second}")


class PairError(Exception):
    """An exception with a constructor of its own that can be rebuilt."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class LockedError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NotRebuildable:
    """A value that cannot be rebuilt in one process.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        if os.getpid() == pid:
            raise RuntimeError("refuses to be here")

    def __reduce__(self) -> tuple[Any, ...]:
        return NotRebuildable, (self.pid,)


def raise_error(task: Any) -> None:
    errors: dict[str, Callable[[], BaseException]] = {
        "value": lambda: ValueError("bad picture"),
        "chained": _chained,
        "pair": lambda: PairError(7, "seven"),
        "odd": lambda: OddError("very", second="odd"),
        "locked": LockedError,
        "exit": lambda: SystemExit(3),
        "interrupt": lambda: KeyboardInterrupt("no"),
        "stop": lambda: StopIteration("over"),
        "stop_async": lambda: StopAsyncIteration("over"),
    }
    raise errors[task.error]()


def raise_error_if_any(task: Any) -> bool:
    if hasattr(task, "error"):
        raise_error(task)
    return True


def _chained() -> Exception:
    try:
        raise KeyError("inner")
    except KeyError as inner:
        error = ValueError("outer")
        error.__cause__ = inner
        return error


def raise_large(task: Any) -> None:
    if task.size:
        raise ValueError("x" * task.size)
    raise ValueError("holds what came", task.image)


def raise_if_bad(task: Any) -> None:
    if task.is_bad:
        raise ValueError("bad")


# Functions for the start of a worker


def nothing() -> None:
    pass


def fail_to_load() -> None:
    raise FileNotFoundError("no model here")


def exit_with_7() -> None:
    os._exit(7)


def take_lock() -> None:
    if not LOCK.acquire(timeout=5):
        raise RuntimeError("the lock was inherited while it was held")


def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def never_end() -> None:
    threading.Event().wait(DEADLINE)


# Conditions


class Chosen:
    """Sends a task to a step that it has chosen by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, task: Any) -> bool:
        return bool(task.choice == self.name)


def has_gate(task: Any) -> bool:
    return getattr(task, "gate", None) is not None


def is_wanted(task: Any) -> bool:
    return bool(getattr(task, "wanted", True))


def is_even(task: Any) -> bool:
    return bool(task.number % 2 == 0)


def never(task: Any) -> bool:
    return False


def raise_on_negative(task: Any) -> bool:
    if task.number < 0:
        raise ValueError("a negative number")
    return True


BUFFERS = [40 << 20, 3 << 20, 20 << 20, 40 << 20]


def knead(job: Any) -> None:
    """Take and free buffers as a network does, and count the page faults."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [bytearray(size) for size in BUFFERS]
    for buffer in buffers:
        buffer[::4096] = b"x" * (len(buffer) // 4096)
    del buffers, buffer
    job.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
