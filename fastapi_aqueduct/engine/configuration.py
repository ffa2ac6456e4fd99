"""Configuration: what a flow declares in code, and what it has since the environment was read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple

from ..autoscale import Autoscale
from ..handler import BaseTaskHandler
from ..logger import log
from ..settings import Setting, apply, describe, settings_of
from ..step import FlowStep
from ..variables import DELIMITER, PREFIX, Number, Section, Value, numbers_of, part, read
from ..worker_options import WorkerOptions
from .declaration import check_options
from .options import DEFAULT_CALL_TIMEOUT, EngineOptions
from .system.process_memory import default_memory_limit


class Configured(NamedTuple):
    """What a flow has with an environment.

    Attributes:
        options: Its options.
        settings: Its numbers, and where each comes from.
    """

    options: EngineOptions
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class FixedConfiguration:
    """The options of a flow in a pipeline process, for which the environment was read where it was declared.

    Attributes:
        options: The options.
    """

    options: EngineOptions

    def read(self) -> EngineOptions:
        """Return the options for a start."""
        return self.options


class Configuration:
    """Owns the options of a flow: as declared, and as they are since its last start, which reads the environment.

    Args:
        declared: What the flow declares in code.
        steps: Its steps, each with its name. The list is changed in place, as others refer to it.

    Attributes:
        options: What the engine gets; as declared until the first start.
        settings: The numbers of the last start, and where each comes from.

    Raises:
        ConfigurationError: The options cannot work as declared.
    """

    def __init__(self, declared: EngineOptions, steps: list[tuple[str, FlowStep]]) -> None:
        check_options(declared)
        self.options = declared
        self.settings: tuple[Setting, ...] = ()
        self._declared = replace(declared, steps=list(steps))
        self._steps = steps

    def read(self) -> EngineOptions:
        """Read the environment for a start, and log what holds.

        Raises:
            ConfigurationError: A variable names no option of the flow, or has a value that it cannot have.
        """
        configured = configure(self._declared, os.environ)
        self._steps[:] = configured.options.steps
        self.options = replace(configured.options, steps=self._steps)
        self.settings = configured.settings
        for name in (None, *(name for name, _ in self._steps)):
            label = f"flow {self.options.name}" + (f", step {name}" if name is not None else "")
            log.info("%s: %s", label, describe(setting for setting in self.settings if setting.step == name))
        return self.options

    def step(self, position: int) -> FlowStep:
        """Return a step with its present handler and numbers."""
        return self._steps[position][1]

    def preview(self) -> tuple[Setting, ...]:
        """Return the settings that a start would have now.

        Raises:
            ConfigurationError: As for `read`.
        """
        return configure(self._declared, os.environ).settings

    def declare_timeout(self, timeout_sec: float) -> None:
        """Declare how long a call of the function behind the flow may take."""
        self._declared = replace(self._declared, timeout_sec=timeout_sec)
        self.options = replace(self.options, timeout_sec=timeout_sec)

    def keep(self, position: int, handler: BaseTaskHandler) -> None:
        """Let a step have another handler, also when the flow is started anew."""
        declared = list(self._declared.steps)
        for steps in (declared, self._steps):
            name, step = steps[position]
            steps[position] = (name, step.with_handler(handler))
        self._declared = replace(self._declared, steps=declared)


def configure(declared: EngineOptions, environ: Mapping[str, str]) -> Configured:
    """Return what a flow has with an environment.

    Args:
        declared: What it declares in code.
        environ: The environment.

    Raises:
        ConfigurationError: As for `Configuration.read`.
    """
    own = PREFIX + part(declared.name) + DELIMITER
    sections = [Section(f"flow {declared.name}", (own,), _numbers_of_flow(declared))]
    for (name, step), stems in zip(declared.steps, _stems(own, declared), strict=True):
        sections.append(Section(f"step {name} of flow {declared.name}", stems, _numbers_of_step(step)))
    found = read(sections, own, environ)
    options = apply(found[0], declared, getattr, _with_option)
    settings = list(map(_effective, settings_of(sections[0], found[0], _values_of_flow(options, sections[0]))))
    steps = []
    for (name, step), section, values in zip(declared.steps, sections[1:], found[1:], strict=True):
        steps.append((name, apply(values, step, _object_of_step, FlowStep.with_option)))
        settings += settings_of(section, values, _values_of_step(steps[-1][1], section), name)
    options = replace(options, steps=steps)
    check_options(options)
    return Configured(options, tuple(settings))


def _stems(own: str, options: EngineOptions) -> Iterator[list[str]]:
    """Yield for each step what stands before its options in variables, the recommended one first.

    The only step of a flow may be left out; it is that of a function, which has one name for both.
    """
    names = [name for name, _ in options.steps]
    numbered = [step.numbered_name(number) for number, (_, step) in enumerate(options.steps, 1)]
    unnumbered = [re.sub(r"^step[0-9]+_", "", name) for name in numbered]
    parts = [tuple(map(part, of_step)) for of_step in zip(names, unnumbered, numbered, strict=True)]
    uses = Counter(name for of_step in parts for name in set(of_step))
    for name, short, long in parts:
        candidates = [name, short, long] if name != long else [short, long]
        stems = [own + each + DELIMITER for each in candidates if each != short or uses[short] == 1 or short == name]
        if len(parts) == 1:
            stems.insert(0 if options.timeout_sec is not None else len(stems), own)
        yield list(dict.fromkeys(stems))


def _numbers_of_flow(options: EngineOptions) -> dict[str, Number]:
    """List the numbers of a flow under the names of its arguments."""
    numbers = {_ARGUMENTS.get(name, name): number for name, number in numbers_of(EngineOptions).items()}
    timeout = numbers.pop("timeout_sec")
    if options.fair is None:
        del numbers["fair.queue_share"]  # a share alone does not say whose it is
    if options.timeout_sec is not None:
        numbers["timeout_sec"] = replace(timeout, words=(), default=DEFAULT_CALL_TIMEOUT)
    return numbers


_ARGUMENTS = {"priorities": "queue_priorities"}
_FIELDS = {argument: field for field, argument in _ARGUMENTS.items()}


def _with_option(options: EngineOptions, argument: str, value: Any) -> EngineOptions:
    options = replace(options, **{_FIELDS.get(argument, argument): value})
    check_options(options)
    return options


def _values_of_flow(options: EngineOptions, section: Section) -> dict[str, Value]:
    return {option: attrgetter(_FIELDS.get(option, option))(options) for option in section.numbers}


def _effective(setting: Setting) -> Setting:
    """Replace a value that stands for a share of the machine's memory."""
    is_share = setting.option == "memory_limit" and setting.value is None
    return replace(setting, value=default_memory_limit()) if is_share else setting


def _numbers_of_step(step: FlowStep) -> dict[str, Number]:
    numbers = dict(numbers_of(FlowStep.__init__))
    del numbers["on_start_wait"]  # users of the package aqueduct give it; it does nothing here
    if step.batch_cost is None:
        del numbers["batch_cost.limit"]  # a limit alone does not say what a task costs
    if step.autoscale is None:  # then the limits are the number that it has
        for limit in ("nprocs.minimum", "nprocs.maximum"):
            numbers[limit] = replace(numbers[limit], default=numbers["nprocs"].default)
    return numbers


def _object_of_step(step: FlowStep, argument: str) -> Any:
    """Return the object with numbers that an argument of a step is, or would be."""
    if argument == "nprocs":
        return step.autoscale or Autoscale(step.nprocs, step.nprocs)
    return getattr(step, argument) or WorkerOptions()


def _values_of_step(step: FlowStep, section: Section) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for option in section.numbers:
        argument, _, inner = option.partition(".")
        if argument == "nprocs" and bool(inner) is (step.autoscale is None):
            continue  # a number of workers that is fixed has no limits, and one that is not has nothing else
        values[option] = getattr(_object_of_step(step, argument), inner) if inner else getattr(step, argument)
    return values
