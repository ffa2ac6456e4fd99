"""Runs a sample through a flow, and measures the steps that it has visited."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ...call import Call
from ...engine.engine import LocalEngine
from ...engine.shape import is_flat
from ...exceptions import TaskTimeout, WorkerDied
from ...flow import Flow
from ...step import FlowStep
from ...task import BaseTask
from ..sample import Sample, may_stream
from .failures import failed_sample
from .fields import describe_type
from .finding import Finding
from .measurement import Measurement
from .progress import Progress
from .report import Run, Step, Times
from .step_calls import Calls, FlowCalls, StepCalls
from .watch import StepWatch


class SampleRun:
    """The way of a sample through a running flow.

    Args:
        flow: The flow.
        steps: Its steps, each with its name.
        sample: Makes the tasks.
        timeout: Seconds in which the sample must be answered, and each round of measurements.
        progress: Gets what is done now.

    Attributes:
        run: What is known of it.
        findings: What has failed.
        is_stuck: Whether a call of a handler may go on, since it was not answered in time.
    """

    def __init__(
        self, flow: Flow, steps: Sequence[tuple[str, FlowStep]], sample: Sample, timeout: float, progress: Progress
    ) -> None:
        self.run = Run(sample.name, "")
        self.findings: list[Finding] = []
        self.is_stuck = False
        self._flow = flow
        self._steps = steps
        self._sample = sample
        self._timeout = timeout
        self._progress = progress
        engine = flow._lifecycle.engine
        assert isinstance(engine, LocalEngine)
        self._dispatcher, self._memory = engine.dispatcher, engine.memory
        seen: set[int] = set()
        self._watches = [StepWatch(engine.memory, seen) for _ in steps]
        self._times: dict[int, Times] = {}

    async def process(self, task: BaseTask) -> None:
        """Run the sample, and measure."""
        for stage, watch in zip(self._dispatcher.stages, self._watches, strict=True):
            stage.copier = stage.comparison = watch
        try:
            if await self._process(task):
                for index, watch in enumerate(self._watches):
                    if watch.calls:
                        await self._measure(index, watch)
        finally:
            for stage, watch in zip(self._dispatcher.stages, self._watches, strict=True):
                stage.copier = stage.comparison = None
                watch.release()

    def describe(self, index: int, step: Step) -> Step:
        """Return a step with what the sample has shown of it."""
        watch = self._watches[index]
        return replace(step, fields_in=watch.fields_in, fields_out=watch.fields_out, times=self._times.get(index))

    async def _process(self, task: BaseTask) -> bool:
        self._progress(f"running the sample {self.run.sample}")
        self.run = replace(self.run, task="call" if isinstance(task, Call) else describe_type(task))
        begun_at = time.monotonic()
        try:
            if may_stream(task) and not isinstance(task, Call):  # the call of a function returns them
                await self._stream(task, begun_at)
            else:
                await self._flow.process(task, self._timeout)
        except Exception as exc:
            self._note_failure("the sample has failed", task, exc, self._failed_step(exc))
            return False
        self.run = replace(self.run, total_time=time.monotonic() - begun_at)
        return True

    async def _stream(self, task: BaseTask, begun_at: float) -> None:
        count = 0
        async for item in self._flow.stream(task, self._timeout):
            count += 1
            if count == 1:
                first, kind = time.monotonic() - begun_at, describe_type(item)
        self.run = replace(self.run, items=count)
        if count:
            self.run = replace(self.run, first_item=first, item_type=kind)

    async def _measure(self, index: int, watch: StepWatch) -> None:
        name, step = self._steps[index]
        first = watch.calls[0].duration
        self._times[index] = Times(first)
        if watch.entered is None or self.is_stuck:  # in a group, samples go through the worker that is stuck
            return
        self._progress(f"measuring {name}")
        try:
            self._times[index] = await Measurement(step, self._calls(index, watch), first).run(watch.entered)
        except Exception as exc:
            what = f"copies of the sample have failed, up to {step.batch_size} together"
            self._note_failure(what, watch.entered, exc, name)

    def _calls(self, index: int, watch: StepWatch) -> Calls:
        if is_flat(self._flow.shape):
            return StepCalls(self._dispatcher, self._memory, watch, index, self._timeout)
        return FlowCalls(self._flow, self._sample, watch, self._timeout)

    def _note_failure(self, what: str, task: BaseTask, exc: Exception, step: str) -> None:
        self.is_stuck = self.is_stuck or isinstance(exc, TaskTimeout)
        self.findings.append(failed_sample(what, task, exc, step))

    def _failed_step(self, exc: Exception) -> str:
        if isinstance(exc, WorkerDied):
            return exc.step
        watched = [(name, watch) for (name, _), watch in zip(self._steps, self._watches, strict=True)]
        failed = [name for name, watch in watched if watch.has_failed]
        # In a group other branches may wait when one has failed.
        waiting = [name for name, watch in watched if watch.is_waiting]
        return (failed or waiting or [""])[-1]
