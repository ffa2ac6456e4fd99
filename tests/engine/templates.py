"""What templates load in the tests, and handlers that use it."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastapi_aqueduct import BaseTaskHandler

SIZE = 128 << 20
"""Bytes of the model."""


@functools.cache
def model() -> NDArray[np.uint8]:
    return np.full(SIZE, 7, np.uint8)


class Loader:
    """Loads the model, writes down how, and does what a file says: ``raise``, ``exit``, ``crash`` or ``hang``.

    Args:
        directory: Where it writes; the file is ``act`` there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self) -> None:
        with (self.directory / "loads").open("a") as file:
            file.write(f"{os.getpid()}:{os.environ['OMP_NUM_THREADS']}:{os.environ['MKL_NUM_THREADS']}\n")
        path = self.directory / "act"
        if path.exists():
            act(path.read_text())
        model()


def act(what: str) -> None:
    if what == "raise":
        raise FileNotFoundError("no weights here")
    if what == "exit":
        os._exit(7)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(600)


class Reader(BaseTaskHandler):
    """Says what it has from the template."""

    def on_start(self) -> None:
        self.hits = model.cache_info().hits
        self.model = model()

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            task.sum = int(self.model[:: 1 << 20].sum())
            task.loaded_before = model.cache_info().misses == 1 and model.cache_info().hits == self.hits + 1
            task.pid, task.parent = os.getpid(), os.getppid()
            task.draws = np.random.random(), random.random()
            task.threads = os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


def leave_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), name="prefetcher", daemon=True).start()


def initialise_cuda() -> None:
    """Have a module like PyTorch with a context on a device, which this machine need not have."""
    torch: Any = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(is_initialized=lambda: True)
    sys.modules["torch"] = torch


def lose() -> list[int]:
    return [1, 2]


async def load_in_loop() -> None:
    pass
