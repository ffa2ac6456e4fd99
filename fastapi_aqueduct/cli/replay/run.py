"""Runs a task through steps in this thread, one after the other."""

from __future__ import annotations

import os
import time
from asyncio import Runner
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from ...engine.marks import Marker, make_markers
from ...engine.options import EngineOptions
from ...engine.scheduling.groups import conflict_error
from ...engine.shape import Shape, describe
from ...engine.statistics import DeathCause
from ...engine.system.process_memory import default_memory_limit
from ...engine.wire.codec import Encoded
from ...engine.workers.environment import make_environment
from ...engine.workers.starter import share_of_cores
from ...exceptions import HandlerTimeout
from ...handler import form_of
from ...runtime import drop_runtime
from ...step import FlowStep
from ...task import BaseTask
from ...worker import WorkerInfo, set_thread_info
from .calls import call_handler, call_hook
from .transport import Transport


class Progress(Protocol):
    """Shows how far a replay is."""

    def note_step(self, name: str, seconds: float, items: int) -> None:
        """Handle the end of a step.

        Args:
            name: Name of the step.
            seconds: How long it took, without `on_start`.
            items: The items that it has yielded.
        """

    def note_skipped(self, name: str) -> None:
        """Handle a step that the task does not visit."""


class Run:
    """Runs a task through steps in this thread.

    Branches run one after the other. Each sees the task as it was before its group, and what all have changed is joined
    behind the group, as between workers.

    Args:
        options: What the flow declares.
        metadata: What happened to the task.
        loop: The event loop of coroutines.
        progress: Shows each step.
    """

    def __init__(
        self, options: EngineOptions, metadata: Mapping[str, Any], loop: Runner, progress: Progress
    ) -> None:
        self._options = options
        self._metadata = metadata
        self._loop = loop
        self._progress = progress
        self._steps: dict[str, FlowStep] = dict(options.steps)
        self._markers: dict[str, Marker | None] = dict(zip(self._steps, make_markers(options.steps), strict=False))
        self._transport = Transport(default_memory_limit())  # blocks are kept, so that of the flow may be too low
        self._environ = dict(os.environ)

    def prepare(self, step: str) -> None:
        """Do what is done once in a worker of a step, and before in its template.

        Raises:
            Exception: Raised by ``template`` or ``worker_init``.
        """
        if self._options.template is not None:
            self._options.template()
        self._become_worker(step)
        if self._options.worker_init is not None:
            call_hook(self._options.worker_init, self._loop)

    def process(self, shape: Shape, task: BaseTask) -> None:
        """Run a task through steps.

        Raises:
            FieldConflict: Two branches have set the same field.
            Exception: Raised by a handler, or by a condition or a key of the user.
        """
        self._run_sequence(shape, self._transport.encode(task), None)

    def _run_sequence(self, shape: Shape, content: Encoded, patches: list[Encoded] | None) -> Encoded:
        """Return a task behind a sequence; in a branch, add what its steps change to the patches."""
        for element in shape:
            if isinstance(element, str):
                content = self._run_step(element, content, patches)
            else:
                found = self._run_group(element, content)
                content = self._transport.join(content, found)
                if patches is not None:
                    patches += found
        return content

    def _run_group(self, branches: Shape, content: Encoded) -> list[Encoded]:
        """Return what all branches change."""
        found: list[Encoded] = []
        owners: dict[str, str] = {}
        for branch in branches:
            patches: list[Encoded] = []
            self._run_sequence(branch, content, patches)
            name, fields = describe(branch), self._transport.fields_of(patches)
            if both := fields & owners.keys():
                field = min(both)
                raise conflict_error(self._options.name, field, owners[field], name)
            owners |= dict.fromkeys(fields, name)
            found += patches
        return found

    def _run_step(self, name: str, content: Encoded, patches: list[Encoded] | None) -> Encoded:
        task = self._transport.decode(content)
        if not self._is_visited(name, task):
            self._progress.note_skipped(name)
        elif patches is None:
            self._visit(name, task)
            return self._transport.encode(task)
        else:
            patch = self._transport.patch(content, partial(self._visit, name))
            patches.append(patch)
            return self._transport.join(content, [patch])
        return content

    def _is_visited(self, name: str, task: BaseTask) -> bool:
        if not self._steps[name].handle_condition(task):
            return False
        marker = self._markers.get(name)
        if marker is not None:
            marker.read(task)  # may raise, which fails a task in a worker
        return True

    def _visit(self, name: str, task: BaseTask) -> None:
        self._become_worker(name)
        handler = self._steps[name].handler
        call_hook(handler.on_start, self._loop, form_of(handler).is_async)
        try:
            began = time.monotonic()
            items = call_handler(handler, task, self._loop, self._limit(name))
            failure = drop_runtime(task, "failure")
            if failure is not None:
                raise failure
            self._progress.note_step(name, time.monotonic() - began, items)
        finally:
            call_hook(handler.on_stop, self._loop, form_of(handler).is_async)

    def _limit(self, name: str) -> float | None:
        """Return the time that a step has: the one in which the task took too long gets as long now.

        Any other one may wait at a breakpoint.
        """
        error, worker = self._metadata["exception"], self._metadata["worker"]
        is_late = error["type"] == f"{HandlerTimeout.__module__}.{HandlerTimeout.__qualname__}"
        has_hung = is_late or worker["cause"] == DeathCause.HANG
        return self._steps[name].handle_timeout if has_hung and name == self._metadata["step"] else None

    def _become_worker(self, name: str) -> None:
        """Set what a handler can know about its worker: the first one of its step."""
        environment = make_environment(self._steps[name].worker, 0, share_of_cores(self._options), self._environ)
        os.environ.clear()  # of what the worker before has
        os.environ.update({**self._environ, **environment.variables})
        parts = environment.threads, self._metadata["version"], environment.device, environment.device_id
        set_thread_info(WorkerInfo(self._options.name, name, 0, os.getpid(), *parts))
