"""Plan: what a pipeline process needs of a flow, without the user's code."""

from __future__ import annotations

import io
import operator
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...exceptions import ConfigurationError, UsageError
from ...step import FlowStep
from ...worker_options import WorkerOptions
from ..child.bootstrap import pack_prelude
from ..child.importing import MainModule, check_not_importing, main_module
from ..memory.regions import CANARY, REPLACEMENT
from ..options import EngineOptions
from ..recorder import Recording
from ..refusals import Refusals
from ..system.cpu import available_cores
from ..wire.log_levels import LogLevels
from ..workers.interpreter import check_interpreter
from ..workers.launch_errors import launch_error
from ..workers.starter import spec_maker
from .fingerprint import fingerprint_of
from .packed_handler import PackedHandler, stand_in


@dataclass(frozen=True, eq=False)
class Plan:
    """What a pipeline process needs of a flow.

    To unpack it imports nothing of the user's: the code of handlers, conditions and functions is pickled in it once
    more, and only workers open that.

    Attributes:
        options: What the flow declares. Its steps have `PackedHandler`s without a program, and conditions that are
            asked elsewhere.
        programs: The pickled program of each step.
        versions: The version of each program.
        prelude: Makes an interpreter like the one that has made the plan; see `bootstrap.pack_prelude`.
        loader: The pickled function of a template; None if there is no template.
        loader_prelude: The prelude of the template.
        environment: The environment variables of the process that has made the plan, which workers get.
        log_levels: The levels of its loggers.
        main: Its main module, for explanations of imports that fail.
        fingerprint: See `fingerprint_of`.
    """

    options: EngineOptions
    programs: Sequence[bytes]
    versions: Sequence[int]
    prelude: bytes
    loader: bytes | None
    loader_prelude: bytes
    environment: Mapping[str, str]
    log_levels: LogLevels
    main: MainModule
    fingerprint: str

    def with_handler(self, index: int, handler: PackedHandler, version: int) -> Plan:
        """Return the plan with another program for one step: that of a handler that was put in while it served.

        Args:
            index: Index of the step.
            handler: The handler.
            version: Its version.
        """
        steps, programs, versions = list(self.options.steps), list(self.programs), list(self.versions)
        name, step = steps[index]
        steps[index] = (name, step.with_handler(stand_in(handler)))
        programs[index], versions[index] = handler.program, version
        return replace(self, options=replace(self.options, steps=steps), programs=programs, versions=versions)

    def pack(self) -> bytes:
        """Return the plan for `unpack` in another process."""
        stream = io.BytesIO()
        _PlainPickler(stream, 5).dump(self)
        return stream.getvalue()

    @staticmethod
    def unpack(data: bytes | memoryview) -> Plan:
        """Read what `pack` has returned."""
        plan: Plan = pickle.loads(data)
        return plan


@dataclass(frozen=True)
class PlannedVariables:
    """What a function of the user for the environment of workers has returned, as a function.

    Attributes:
        by_index: The variables of each worker that there may be; a text if the function has raised.
    """

    by_index: Sequence[Mapping[str, str] | str]

    def __call__(self, index: int) -> Mapping[str, str]:
        """Return the variables of a worker.

        Args:
            index: Its index in the step.

        Raises:
            ConfigurationError: The function has raised for this index.
        """
        found = self.by_index[index]
        if isinstance(found, str):
            raise ConfigurationError(found)
        return found


def make_plan(options: EngineOptions) -> Plan:
    """Make the plan for a pipeline process, in a process that has the user's code. This may take long.

    Args:
        options: What the flow declares.

    Raises:
        ConfigurationError: A handler or condition cannot be pickled, this is a worker that imports the module that
            starts the flow, or the application is frozen into an executable that does not start workers.
        StartError: A function for the environment of workers has raised.
    """
    check_interpreter()
    check_not_importing(options.name)
    maker = spec_maker(options)
    bare = replace(
        options,
        steps=[(name, _without_code(options.name, name, step)) for name, step in options.steps],
        subscribers=(),
        context=(),
        worker_init=None,
        reporters=(),
        refusals=Refusals(),
        begin_spans=None,
        template=None,
        recording=Recording(),
        fair=None if options.fair is None else replace(options.fair, tenant=ask_elsewhere, weight=None),
    )
    return Plan(
        options=bare,
        programs=[maker.pack(name, step) for name, step in options.steps],
        versions=[1] * len(options.steps),
        prelude=pack_prelude(is_relayed=True),
        loader=maker.pack_loader() if maker.has_template else None,
        loader_prelude=pack_prelude(is_template=True),
        environment=dict(os.environ),
        log_levels=LogLevels.read(),
        main=main_module(),
        fingerprint=fingerprint_of(options),
    )


def ask_elsewhere(task: Any) -> Any:
    """Stand for a condition, a key or a cost of the user: the API process asks it, and workers do.

    Raises:
        UsageError: Always.
    """
    raise UsageError("a condition or a key was asked in the pipeline process, which has no code of the user's")


def _without_code(flow: str, name: str, step: FlowStep) -> FlowStep:
    condition = step.handle_condition
    bare = step.with_stand_in(stand_in(step.handler), condition if condition is operator.truth else ask_elsewhere)
    if callable(step.batch_key):
        bare.batch_key = ask_elsewhere
    if callable(step.coalesce_key):
        bare.coalesce_key = ask_elsewhere
    if step.batch_cost is not None and callable(step.batch_cost.of):
        bare.batch_cost = replace(step.batch_cost, of=ask_elsewhere)
    if step.worker is not None:
        options = step.worker
        bare.worker = WorkerOptions(
            tuple(options.devices), _variables(flow, name, step), options.threads, options.placement
        )
    return bare


def _variables(flow: str, name: str, step: FlowStep) -> Mapping[str, str] | PlannedVariables | None:
    options = step.worker
    if options is None or options.env is None:
        return None
    if not callable(options.env):
        return dict(options.env)
    found: list[Mapping[str, str] | str] = []
    for index in range(max(step.most_workers, available_cores()) + REPLACEMENT + CANARY):
        try:
            found.append(dict(options.variables(index)))
        except Exception as exc:
            if index < step.nprocs:
                raise launch_error(flow, name, exc) from exc
            found.append(f"env of WorkerOptions has raised for worker {index} of {name}: {type(exc).__name__}: {exc}")
    return PlannedVariables(found)


class _PlainPickler(pickle.Pickler):
    """Pickles texts and numbers of classes of the user, such as members of a ``StrEnum``, as plain ones."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, str):
            return str, (str.__str__(value),)
        if isinstance(value, int):
            return int, (int.__int__(value),)
        return (float, (float.__float__(value),)) if isinstance(value, float) else NotImplemented
