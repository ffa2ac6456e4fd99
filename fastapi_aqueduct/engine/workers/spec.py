"""What the workers of a step run, and with which options."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

from ...exceptions import ConfigurationError
from ...handler import BaseTaskHandler
from ...step import FlowStep
from ..child.bootstrap import pack_prelude
from ..child.importing import import_name
from ..child.program import Program, ProgramFile
from ..child.remote.stand_in import StandIn
from ..marks import make_markers
from ..shape import Shape
from .launch_errors import launch_error, memory_error
from .references import Reference, find_variable

Find = Callable[[ContextVar[Any]], Reference]
"""Finds the module of a context variable."""


@dataclass(frozen=True, eq=False)
class WorkerSpec:
    """What the workers of a step run, and with which options.

    Attributes:
        index: Index of the step.
        name: Name of the step.
        step: Its declared options.
        program: The user's code, which only a worker unpickles; None if workers have this process's own.
        prelude: Makes an interpreter like the one in which they were pickled; see `bootstrap.pack_prelude`.
        version: Counts from 1; another handler for the same step is another version.
    """

    index: int
    name: str
    step: FlowStep
    program: ProgramFile | None = None
    prelude: bytes = b""
    version: int = 1

    def close(self) -> None:
        """Release the memory of the program, when no more workers are launched."""
        if self.program is not None:
            self.program.close()


class Loader(NamedTuple):
    """What a template calls.

    Attributes:
        program: The pickled function of the user.
        prelude: Makes an interpreter like the one in which it was pickled.
    """

    program: ProgramFile
    prelude: bytes


class SpecSource(Protocol):
    """Makes what the workers of each step run, once for all of them."""

    @property
    def has_template(self) -> bool:
        """Whether they are forked from a template."""

    def make_all(self) -> list[WorkerSpec]:
        """Make the first version of each step; see `SpecMaker.make_all`."""

    def make_loader(self) -> Loader:
        """Make what the template calls; see `SpecMaker.make_loader`."""

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make the next version of a step; see `SpecMaker.renew`."""


class SpecMaker:
    """Pickles what the workers of each step run.

    Args:
        flow: Name of the flow.
        steps: Its steps, each with its name.
        context: The context variables that travel with tasks.
        worker_init: Called in each worker before `on_start`.
        template: The function that a template calls; None if there is no template.
        shape: Which steps run one after the other, and which side by side.
    """

    def __init__(
        self,
        flow: str,
        steps: Sequence[tuple[str, FlowStep]],
        context: Sequence[ContextVar[Any]] = (),
        worker_init: Callable[[], object] | None = None,
        template: Callable[[], object] | None = None,
        shape: Shape = (),
    ) -> None:
        self._flow = flow
        self._steps = steps
        self._conditions = [step.handle_condition for _, step in steps]
        self._markers = make_markers(steps)
        self._context = tuple(context)
        self._worker_init = worker_init
        self._template = template
        self._shape = shape
        self._find = cache(partial(find_variable, flow))  # it looks through all modules

    @property
    def has_template(self) -> bool:
        """Whether workers are forked from a template."""
        return self._template is not None

    def make_all(self) -> list[WorkerSpec]:
        """Make the first version of each step.

        Raises:
            ConfigurationError: A handler, a condition or `worker_init` cannot be pickled, or workers cannot find a
                context variable.
            StartError: No descriptor or no memory is left.
        """
        prelude = pack_prelude()
        specs = []
        with ExitStack() as undo:
            for index, (name, step) in enumerate(self._steps):
                program = make_program_file(self._flow, name, self.pack(name, step))
                specs.append(WorkerSpec(index, name, step, program, prelude))
                undo.callback(specs[-1].close)
            undo.pop_all()
        return specs

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make the next version of a step.

        Args:
            spec: The version before.
            handler: The handler of the new one.

        Raises:
            ConfigurationError: The handler cannot be pickled, or cannot take the place of the one before.
            StartError: No descriptor or no memory is left.
        """
        step = spec.step.with_handler(handler)
        program = make_program_file(self._flow, spec.name, self.pack(spec.name, step))
        return replace(spec, step=step, program=program, version=spec.version + 1)

    def make_loader(self) -> Loader:
        """Make what the template calls.

        Raises:
            ConfigurationError: The function cannot be pickled.
            StartError: No descriptor or no memory is left.
        """
        return Loader(make_loader_file(self._flow, self.pack_loader()), pack_prelude(is_template=True))

    def pack(self, name: str, step: FlowStep) -> bytes:
        """Pickle the program of a step.

        Args:
            name: Name of the step.
            step: The step, with its handler.

        Raises:
            ConfigurationError: A handler, a condition or `worker_init` cannot be pickled, or workers cannot find a
                context variable.
        """
        try:
            code = step.handler, self._conditions, self._context, self._worker_init, self._markers
            program = Program(*code, self._shape)
            data = _dump(program, self._find)
        except Exception:
            self._blame(name, step)
            raise
        if step.placement is None:
            return data
        from ..child.actor import Actor  # and with it all that runs in workers

        return pickle.dumps(Program(StandIn(data, step.placement, Actor), []), 5)

    def pack_loader(self) -> bytes:
        """Pickle the function that a template calls.

        Raises:
            ConfigurationError: It cannot be pickled.
        """
        try:
            return pickle.dumps(self._template, 5)
        except Exception as exc:
            raise _not_picklable(f"template of flow {self._flow}", exc) from exc

    def _blame(self, name: str, step: FlowStep) -> None:
        """Find the object that cannot be pickled.

        Raises:
            ConfigurationError: Names the object.
        """
        values: list[tuple[str, object]] = [(f"worker_init of flow {self._flow}", self._worker_init)]
        values.append((f"the handler of {name} in flow {self._flow}", step.handler))
        for other, declared in self._steps:
            values.append((f"the handle_condition of {other} in flow {self._flow}", declared.handle_condition))
            values.append((f"the batch_key of {other} in flow {self._flow}", declared.batch_key))
            values.append((f"the batch_cost of {other} in flow {self._flow}", declared.batch_cost))
            values.append((f"the coalesce_key of {other} in flow {self._flow}", declared.coalesce_key))
        for what, value in values:
            try:
                _dump(value, self._find)
            except Exception as exc:
                raise _not_picklable(what, exc) from exc


def _dump(value: object, find: Find) -> bytes:
    """Pickle user code, with context variables as references."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 5)
    pickler.dispatch_table = copyreg.dispatch_table | {ContextVar: lambda variable: (import_name, find(variable))}
    pickler.dump(value)
    return stream.getvalue()


def make_program_file(flow: str, step: str, data: bytes) -> ProgramFile:
    """Put the program of a step into a memory file.

    Args:
        flow: Name of the flow.
        step: Name of the step.
        data: The pickled program.

    Raises:
        StartError: No descriptor or no memory is left.
    """
    try:
        return ProgramFile(f"{flow}:{step}", data)
    except OSError as exc:
        raise launch_error(flow, step, exc) from exc


def make_loader_file(flow: str, data: bytes) -> ProgramFile:
    """Put the function that a template calls into a memory file.

    Args:
        flow: Name of the flow.
        data: The pickled function.

    Raises:
        StartError: No descriptor or no memory is left.
    """
    try:
        return ProgramFile(f"{flow}:template", data)
    except OSError as exc:
        raise memory_error(flow, exc) from exc


def _not_picklable(what: str, exc: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{what} cannot be sent to a worker process: {exc}; "
        "define it at the top level of a module, and create what cannot be pickled in on_start"
    )
