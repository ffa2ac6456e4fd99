"""PlannedStarter: starts the workers of a flow in a process that does not have the user's code."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from ...exceptions import UsageError
from ...handler import BaseTaskHandler
from ..workers.spec import Loader, WorkerSpec, make_loader_file, make_program_file
from ..workers.starter import ProcessStarter
from .packed_handler import PackedHandler, stand_in
from .plan import Plan


class PlannedSpecs:
    """Makes what workers run from the programs of a plan; a `SpecSource`.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._flow = plan.options.name
        self._steps = plan.options.steps
        self._programs: Sequence[bytes] = plan.programs
        self._versions = plan.versions
        self._prelude = plan.prelude
        self._loader = plan.loader
        self._loader_prelude = plan.loader_prelude

    @property
    def has_template(self) -> bool:
        """Whether workers are forked from a template."""
        return self._loader is not None

    def make_all(self) -> list[WorkerSpec]:
        """Make the first version of each step, once: the programs are in memory files then, and no longer here.

        Raises:
            StartError: No descriptor or no memory is left.
        """
        specs = []
        with ExitStack() as undo:
            for index, (name, step) in enumerate(self._steps):
                program = make_program_file(self._flow, name, self._programs[index])
                specs.append(WorkerSpec(index, name, step, program, self._prelude, self._versions[index]))
                undo.callback(specs[-1].close)
            undo.pop_all()
        self._programs = ()
        return specs

    def make_loader(self) -> Loader:
        """Make what the template calls.

        Raises:
            StartError: No descriptor or no memory is left.
        """
        assert self._loader is not None
        return Loader(make_loader_file(self._flow, self._loader), self._loader_prelude)

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make the next version of a step.

        Args:
            spec: The version before.
            handler: A `PackedHandler` with its program.

        Raises:
            ConfigurationError: The handler cannot take the place of the one before.
            StartError: No descriptor or no memory is left.
        """
        if not isinstance(handler, PackedHandler):
            raise UsageError(f"the pipeline process of flow {self._flow} takes packed handlers only")
        step = spec.step.with_handler(stand_in(handler))
        program = make_program_file(self._flow, spec.name, handler.program)
        return replace(spec, step=step, program=program, version=spec.version + 1)


class PlannedStarter(ProcessStarter):
    """Starts each worker in a process of its own, from the programs of a plan.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.options, PlannedSpecs(plan))
