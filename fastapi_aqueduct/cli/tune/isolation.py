"""A step in isolation: the same handler in a flow of its own, with other numbers."""

from __future__ import annotations

import inspect
import operator
import os
from dataclasses import replace
from math import ceil

from ...engine.options import EngineOptions
from ...engine.workers.environment import THREAD_VARIABLES
from ...exceptions import ConfigurationError
from ...flow import Flow, FlowStep
from ...worker_options import WorkerOptions
from .model import StepSettings

LARGEST_BATCH = 256
"""The largest size that is measured."""

NAME = "tuning-of-{}"
"""Names the flow of a step. No variable of the environment has this name, so none changes what is measured."""


def check_place(name: str, step: FlowStep) -> None:
    """Refuse a step that cannot be measured here.

    Args:
        name: Name of the step.
        step: The step.

    Raises:
        ConfigurationError: It runs on another machine.
    """
    if step.placement is not None:
        raise ConfigurationError(
            f"step {name} runs on other machines (WorkerOptions.placement): `tune` measures the workers of this one"
        )


def size_option(step: FlowStep) -> str:
    """Return the option that is the size of a step: of its batches, or of what it has side by side."""
    return "batch_size" if not step.places or step.continuous else "concurrency"


def size_of(step: FlowStep) -> int:
    """Return the size of a step as it is declared."""
    return step.places * step.call_size if step.places else step.batch_size


def largest_size(step: FlowStep) -> int:
    """Return the largest size that a handler allows, as far as its declaration tells."""
    if step.places and not step.continuous:
        return size_of(step)  # calls that share state may not go together, which only the user knows
    parameters = inspect.signature(step.handler.handle).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return LARGEST_BATCH
    return sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)


def with_size(step: FlowStep, size: int) -> FlowStep:
    """Return a step with another size."""
    option = size_option(step)
    return step.with_option(option, size if option == "batch_size" else ceil(size / step.call_size))


def fixed_threads() -> int | None:
    """Return the threads that the environment gives to all workers, which no option of a step changes."""
    text = os.environ.get(THREAD_VARIABLES[0], "").partition(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) else None


def isolated(options: EngineOptions, name: str, step: FlowStep, settings: StepSettings) -> Flow:
    """Return a flow of one step.

    Args:
        options: Those of the flow that has the step.
        name: Name of the step.
        step: The step.
        settings: What it gets.
    """
    changed = with_size(step, settings.size)
    changes = {
        "handle_condition": operator.truth,
        "nprocs": settings.nprocs,
        "coalesce_key": None,  # copies of a sample are to be as many runs
        "max_retries": 0,  # a batch that fails is not tried again one by one, which would hide it
        "max_tasks": None,
        "max_age": None,
        "max_memory_growth": None,
        "batch_timeout": 0.0,
        "worker": replace(step.worker or WorkerOptions(), threads=settings.threads),
    }
    for option, value in changes.items():
        changed = changed.with_option(option, value)
    return Flow(
        changed,
        queue_size=options.queue_size,
        queue_priorities=options.priorities,
        mp_start_method=options.start_method,
        memory_limit=options.memory_limit,
        start_timeout=options.start_timeout,
        name=NAME.format(options.name),
        context=options.context,
        worker_init=options.worker_init,
        template=options.template,
        forward_logs=options.forward_logs,
        tracing=False,
        timing=options.timing,
    )
