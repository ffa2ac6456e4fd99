"""The worker processes of a step, as far as a check knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...engine.workers.handle import WorkerHandle
from .processes import memory_of, thread_times, threads_of
from .report import Step, Worker
from .worker_note import read_note

LEAST_TIME = 0.03
"""Seconds of processor time in which a thread can be told to compute: a few ticks of the clock that counts it."""

PART = 0.1
"""The part of the time of the busiest thread from which another one counts as one that computes, too."""


class WorkerNotes:
    """What the workers of a flow need, and what they have noted.

    Args:
        directory: Where they write their notes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loaded: dict[int, int | None] = {}
        self._times: dict[int, dict[int, float]] = {}

    def note_loaded(self, workers: Sequence[WorkerHandle]) -> None:
        """Note what workers have used that are ready and have had no task."""
        self._loaded = {worker.pid: memory_of(worker.pid) for worker in workers}
        self._times = {worker.pid: thread_times(worker.pid) for worker in workers}

    def describe(self, workers: Sequence[WorkerHandle]) -> list[Worker]:
        """Describe workers that run."""
        return [self._describe(worker) for worker in workers if worker.pid]

    def _describe(self, worker: WorkerHandle) -> Worker:
        note = read_note(self._directory, worker.pid, "start")
        before, after = None if note is None else note.private_memory, self._loaded.get(worker.pid)
        threads = threads_of(worker.pid)
        return Worker(
            pid=worker.pid,
            index=worker.index,
            device=worker.environment.device_id,
            import_time=None if note is None else note.at - worker.launched_at,
            load_time=worker.ready_at - worker.launched_at,
            private_memory=memory_of(worker.pid),
            model_memory=None if after is None or before is None else max(0, after - before),
            threads=None if threads is None or note is None else threads - note.python_threads + 1,
            computing_threads=self._computing(worker.pid),
            numeric_threads=worker.environment.threads,
            fastapi_importers=[] if note is None else note.fastapi_importers,
        )

    def _computing(self, pid: int) -> int | None:
        before = self._times.get(pid, {})
        used = [spent - before.get(thread, 0.0) for thread, spent in thread_times(pid).items()]
        most = max(used, default=0.0)
        return sum(spent >= PART * most for spent in used) if most >= LEAST_TIME else None

    def complete(self, step: Step) -> Step:
        """Return a step with what its workers have imported until their end."""
        return replace(step, workers=[self._complete(worker) for worker in step.workers])

    def _complete(self, worker: Worker) -> Worker:
        note = read_note(self._directory, worker.pid, "end")
        return worker if note is None else replace(worker, fastapi_importers=note.fastapi_importers)
