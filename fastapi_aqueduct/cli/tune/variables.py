"""Recommended settings as variables of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil

from ...flow import FlowStep
from ...settings import Setting
from ...variables import text_of
from .costs import StepCosts
from .isolation import size_option
from .model import StepSettings

WORTH_WAITING = 0.001
"""Seconds of the fixed part of a call from which ``batch_timeout="auto"`` may wait at all."""


def variables_of(
    name: str, step: FlowStep, costs: StepCosts, own: StepSettings, settings: Sequence[Setting], sets_threads: bool
) -> dict[str, str]:
    """Return the variables that give a step its settings.

    Args:
        name: Name of the step.
        step: The step as declared.
        costs: What it costs.
        own: Its settings.
        settings: The settings of the flow, which know the variables.
        sets_threads: Whether the number of threads is that of the step, and not of the whole environment.
    """
    values: dict[str, int | float | str] = {}
    if step.autoscale is None:
        values["nprocs"] = own.nprocs
    else:
        values["nprocs.minimum"] = min(step.autoscale.minimum, own.nprocs)
        values["nprocs.maximum"] = own.nprocs
    option = size_option(step)
    values[option] = own.size if option == "batch_size" else ceil(own.size / step.call_size)
    if not step.places:
        waits = own.size > 1 and costs.curves[own.threads].fixed > WORTH_WAITING
        values["batch_timeout"] = "auto" if waits else 0
    if sets_threads:
        values["worker.threads"] = own.threads
    names = {setting.option: setting.variable for setting in settings if setting.step == name}
    return {names[option]: text_of(value) for option, value in values.items()}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have variables in the environment of this process during the context; a flow reads them when it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
