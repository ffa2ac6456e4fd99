"""Checks of the arguments of flows and of their calls."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, SupportsFloat

from ..exceptions import ConfigurationError, InvalidArgument, MPStartMethodValueError, got
from ..fair_share import FairShare
from ..step import FlowStep, Part
from .marks import make_markers
from .options import EngineOptions, StartMethod
from .route import make_route
from .shape import MAX_STEPS, Shape, is_flat

LONGEST_TIMEOUT = 1e9
"""Seconds. Stands for an infinite time, which clocks and timers do not support."""


class Declared(NamedTuple):
    """What a flow declares as its steps.

    Attributes:
        steps: Each step with its name, in the order in which they are written.
        shape: Which of them run one after the other, and which side by side.
    """

    steps: list[tuple[str, FlowStep]]
    shape: Shape


def declared(parts: tuple[Part, ...]) -> Declared:
    """Return the steps of a flow with their names; a handler alone stands for ``FlowStep(handler)``.

    Raises:
        ConfigurationError: There is no step, two have the same name, or a group cannot work as declared.
    """
    if not parts:
        raise ConfigurationError("a flow needs at least one step")
    steps: list[FlowStep] = []
    structure = _flatten(parts, steps)
    named = _named(steps)
    names = iter([name for name, _ in named])
    shape = _with_names(structure, names)
    check_route(named, shape)
    return Declared(named, shape)


def _flatten(parts: Sequence[object], steps: list[FlowStep]) -> Shape:
    """Add the steps of a sequence to a list, and return the sequence without them."""
    elements: list[Any] = []
    for part in parts:
        if isinstance(part, list):
            elements.append(tuple([_flatten(branch, steps) for branch in _branches(part)]))
        elif isinstance(part, tuple):
            raise ConfigurationError(
                "a tuple is a branch of several steps, so it belongs into the list of a group: "
                "Flow(Decode(), [Faces(), (Plates(), Read())])"
            )
        else:
            steps.append(part if isinstance(part, FlowStep) else FlowStep(part))  # type: ignore[arg-type]
            elements.append("")
    return tuple(elements)


def _branches(group: list[object]) -> list[tuple[object, ...]]:
    if len(group) < 2:
        raise ConfigurationError(f"a group needs at least two branches, which run side by side, got {len(group)}")
    if any(isinstance(branch, list) for branch in group):
        raise ConfigurationError(
            "a list directly in the list of a group: write all branches in one list, and a group inside a branch in "
            "the tuple of that branch"
        )
    if () in group:
        raise ConfigurationError("a branch of a group needs at least one step, got an empty tuple")
    return [branch if isinstance(branch, tuple) else (branch,) for branch in group]


def _with_names(structure: Shape, names: Iterator[str]) -> Shape:
    return tuple(
        [
            next(names) if isinstance(element, str) else tuple([_with_names(branch, names) for branch in element])
            for element in structure
        ]
    )


_OF_OPEN_TASKS = ("batch_key", "batch_cost", "coalesce_key")
"""Options that are evaluated with the task before it waits for the step."""


def check_route(steps: Sequence[tuple[str, FlowStep]], shape: Shape) -> None:
    """Check that steps can follow each other.

    Args:
        steps: The steps, each with its name.
        shape: Which of them run one after the other, and which side by side.

    Raises:
        ConfigurationError: They cannot.
    """
    if len(steps) > MAX_STEPS and not is_flat(shape):
        raise ConfigurationError(f"a flow with a group can have at most {MAX_STEPS} steps, got {len(steps)}")
    route = make_route([step.handle_condition for _, step in steps], make_markers(steps), shape)
    for index, (name, step) in enumerate(steps):
        for option in _OF_OPEN_TASKS:
            if route.is_closed(index) and getattr(step, option, None) is not None:
                raise ConfigurationError(
                    f"step {name} comes directly behind a group, or behind a step with coalesce_key, so it cannot have "
                    f"{option}: that is evaluated where the task is unpacked, and results are joined there without "
                    f"unpacking them; put a step between them, or leave out {option}"
                )


def _named(steps: list[FlowStep]) -> list[tuple[str, FlowStep]]:
    names: list[tuple[str, FlowStep]] = []
    numbers: dict[str, int] = {}
    for number, step in enumerate(steps, start=1):
        numbered = step.numbered_name(number)
        name = step.name or numbered
        for label in {name, numbered}:
            if numbers.setdefault(label, number) != number:
                raise ConfigurationError(
                    f"steps {numbers[label]} and {number} of a flow have the same name {label!r}; give each a name of "
                    "its own: FlowStep(..., name=...)"
                )
        names.append((name, step))
    return names


def checked_method(method: str) -> StartMethod:
    """Return a start method of processes.

    Raises:
        MPStartMethodValueError: The method is not safe in a server.
    """
    if method == "spawn":
        return "spawn"
    if method == "forkserver":
        return "forkserver"
    raise MPStartMethodValueError(
        f"mp_start_method {method!r} is refused: use 'spawn' or 'forkserver'"
        + ("; a fork copies the locks and the event loop of a server in an unusable state" * (method == "fork"))
    )


def check_options(options: EngineOptions) -> None:
    """Check the options of a flow.

    Raises:
        ConfigurationError: A number is too small, or another option cannot work.
    """
    for name, value, least in (
        ("queue_size", options.queue_size, 1),
        ("queue_priorities", options.priorities, 1),
        ("memory_limit", options.memory_limit if options.memory_limit is not None else 1 << 20, 1 << 20),
    ):
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {value}")
    if options.start_timeout <= 0:
        raise ConfigurationError(f"start_timeout must be positive, got {options.start_timeout}")
    if options.stop_timeout < 0:
        raise ConfigurationError(f"stop_timeout must not be negative, got {options.stop_timeout}")
    if options.timeout_sec is not None and options.timeout_sec < 0:
        raise ConfigurationError(f"timeout_sec must not be negative, got {options.timeout_sec}")
    _check_context(options.name, options.context)
    _check_init(options.name, options.worker_init)
    if options.fair is not None and not isinstance(options.fair, FairShare):
        raise InvalidArgument(
            f'fair of flow {options.name} must be a FairShare, such as FairShare("tenant"), {got(options.fair)}'
        )
    if options.fair is not None and options.shape and not isinstance(options.shape[0], str):
        raise ConfigurationError(
            f"fair of flow {options.name} is for the queue of its first step, and the flow begins with a group of "
            "steps: put a step before the group"
        )
    if options.template is not None:
        _check_template(options.name, options.template, options)


_RECORD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "flow", "step", "worker", "pid", "task_id"}
"""Attributes of the log records of workers, beside the values of context variables."""


def _check_context(flow: str, context: Sequence[ContextVar[Any]]) -> None:
    names: set[str] = set()
    if not isinstance(context, Sequence) or not all(isinstance(variable, ContextVar) for variable in context):
        raise InvalidArgument(f"context of flow {flow} must be a list of ContextVars, {got(context)}")
    for name in [variable.name for variable in context]:
        if name in names or name in _RECORD:
            raise ConfigurationError(
                f"context variable {name!r} of flow {flow} needs a name of its own, ContextVar(name), since its value "
                f"becomes an attribute of log records: {'another one' if name in names else 'a log record'} has this "
                "name"
            )
        names.add(name)


def _check_init(flow: str, worker_init: object) -> None:
    if worker_init is not None and not callable(worker_init):
        raise InvalidArgument(f"worker_init of flow {flow} must be a function without arguments, {got(worker_init)}")
    if inspect.isgeneratorfunction(worker_init) or inspect.isasyncgenfunction(worker_init):
        raise InvalidArgument(f"worker_init of flow {flow} has a `yield`, so its body would not run: leave it out")


def _check_template(flow: str, template: object, options: EngineOptions) -> None:
    if not callable(template):
        raise InvalidArgument(f"template of flow {flow} must be a function without arguments, {got(template)}")
    for is_wrong in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        if is_wrong(template):
            raise InvalidArgument(
                f"template of flow {flow} must be a plain function: a template has no event loop, and nothing iterates"
            )
    for name, step in options.steps:
        if step.worker is not None and (step.worker.devices or step.worker.env is not None):
            raise ConfigurationError(
                f"step {name} of flow {flow} has WorkerOptions with devices or env, and the flow a template: libraries "
                "read such variables when they are imported, which the template does once for all workers; leave out "
                "one of the two"
            )
        if step.placement is not None:
            raise ConfigurationError(
                f"step {name} of flow {flow} has a placement on another machine, and the flow a template, from which "
                "workers are forked on this one; leave out one of the two"
            )
    if options.start_method != "spawn":
        raise ConfigurationError(
            f'flow {flow} has a template and mp_start_method="{options.start_method}": its workers are forked from the '
            "template, which is a process of the flow's own; leave mp_start_method out"
        )


def checked_timeout(timeout: object) -> float:
    """Return the timeout of a call in seconds that clocks support.

    Raises:
        ConfigurationError: It is not a number.
    """
    # The numbers first: up to Python 3.11 a check against a protocol looks through all its attributes, for each call.
    if not isinstance(timeout, (float, int, SupportsFloat)) or math.isnan(timeout):
        raise ConfigurationError(f"timeout_sec of a call must be a number of seconds, {got(timeout)}")
    return max(0.0, min(float(timeout), LONGEST_TIMEOUT))


def not_a_task(value: object) -> ConfigurationError:
    """Return the error for a call of a flow with a value that is not a task."""
    return ConfigurationError(f"a flow processes tasks, objects of a subclass of BaseTask, {got(value)}")
