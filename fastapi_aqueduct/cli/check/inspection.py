"""Starts a flow, runs a sample if there is one, and looks at what its steps and workers do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ...engine.engine import LocalEngine
from ...engine.options import EngineOptions
from ...exceptions import ConfigurationError, StartError
from ...flow import Flow
from ...task import BaseTask
from ..sample import Sample, SampleFailed
from .declared import declared_step
from .failures import failed_maker, failed_start
from .finding import Finding, Severity
from .progress import Progress
from .report import Run, Step
from .sample_run import SampleRun
from .worker_note import NoteWriter
from .workers import WorkerNotes


class Inspection:
    """Runs a flow once.

    Args:
        flow: The flow.
        sample: Makes the task; None: the steps are started and get no task.
        timeout: As for `SampleRun`.
        progress: Gets what is done now.

    Attributes:
        findings: What is wrong.
        steps: The steps, with what is known of them.
        run: The way of the sample; None without one.

    Raises:
        ConfigurationError: The environment sets what cannot be.
    """

    def __init__(self, flow: Flow, sample: Sample | None, timeout: float, progress: Progress) -> None:
        self.findings: list[Finding] = []
        self.steps: list[Step] = []
        self.run: Run | None = None
        self._flow = flow
        self._sample = sample
        self._timeout = timeout
        self._progress = progress
        self._options = flow._configuration.read()
        for name, step in self._options.steps:
            settings = [setting for setting in flow._configuration.settings if setting.step == name]
            found, findings = declared_step(name, step, self._options, settings)
            self.steps.append(found)
            self.findings += findings
        # Before an event loop runs, in which Ctrl-C would wait for the user's function.
        self._task = self._make_task()

    async def inspect(self) -> None:
        """Start the flow, run the sample, measure, and stop the flow."""
        if any(finding.severity is Severity.ERROR for finding in self.findings):
            return  # nothing can be started
        with TemporaryDirectory(prefix="aqueduct-check-") as directory:
            notes = WorkerNotes(Path(directory))
            with self._flow._lifecycle.built_by(lambda options: _build(options, Path(directory))):
                await self._run(notes)
            self.steps = [notes.complete(step) for step in self.steps]

    def _make_task(self) -> BaseTask | None:
        if self._sample is None:
            return None
        self._progress(f"making the sample {self._sample.name}")
        try:
            return self._sample.next_task()
        except (SampleFailed, ConfigurationError) as exc:
            self.findings.append(failed_maker(exc))
            return None

    async def _run(self, notes: WorkerNotes) -> None:
        self._progress(f"starting {', '.join(name for name, _ in self._options.steps)}")
        try:
            await self._flow.start_async()
        except (StartError, ConfigurationError) as exc:
            self.findings.append(failed_start(exc))
            return
        is_idle = False
        try:
            is_idle = await self._look_at_workers(notes)
        finally:
            await self._flow.stop(graceful=is_idle)  # a call that does not end would be waited for

    async def _look_at_workers(self, notes: WorkerNotes) -> bool:
        """Run the sample and describe the workers; tell whether all of them are idle again."""
        for step in self._flow.steps.values():
            if not step.statistics().ready_workers:  # it sleeps
                await step.scale(1)
        engine = self._flow._lifecycle.engine
        assert isinstance(engine, LocalEngine)
        pools = [stage.pool for stage in engine.dispatcher.stages]
        notes.note_loaded([worker for pool in pools for worker in pool.all_workers()])
        is_idle = True
        if self._task is not None and self._sample is not None:
            sample = SampleRun(self._flow, self._options.steps, self._sample, self._timeout, self._progress)
            await sample.process(self._task)
            self.run, is_idle = sample.run, not sample.is_stuck
            self.findings += sample.findings
            self.steps = [sample.describe(index, step) for index, step in enumerate(self.steps)]
        described = [notes.describe(pool.all_workers()) for pool in pools]
        self.steps = [replace(step, workers=workers) for step, workers in zip(self.steps, described, strict=True)]
        return is_idle


def _build(options: EngineOptions, directory: Path) -> LocalEngine:
    return LocalEngine.build(replace(options, worker_init=NoteWriter(directory, options.worker_init)))
