"""Finds the hooks of a module, or of the plug-ins that are installed."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, NamedTuple

import pluggy

from ..exceptions import ConfigurationError
from . import default_plugin
from .hooks import CONTRACT, HOOKS, Hooks


class HookManager(pluggy.PluginManager):
    """The hooks that are called: those of its plug-ins, and the default ones."""

    def __init__(self) -> None:
        super().__init__(CONTRACT)
        self.add_hookspecs(Hooks)
        self.register(default_plugin)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a hook; None for what is none. Overrides pluggy's: marks may be missing."""
        options = super().parse_hookimpl_opts(plugin, name)
        if options is not None or name not in HOOKS or self._has_marks(plugin):
            return options
        return {} if inspect.isroutine(getattr(plugin, name)) else None

    def functions(self, hook: str) -> list[Any]:
        """List the functions of a hook, but for the default one; the first is called first.

        Args:
            hook: Name of the hook.
        """
        found = getattr(self.hook, hook).get_hookimpls()
        return [item.function for item in reversed(found) if item.plugin is not default_plugin]

    def _has_marks(self, plugin: Any) -> bool:
        parse = super().parse_hookimpl_opts
        return any(parse(plugin, name) is not None for name in HOOKS if hasattr(plugin, name))


class PlugIn(NamedTuple):
    """Where the hooks of a service come from.

    Attributes:
        target: Name of an installed plug-in, a module, or ``module:name``; None: all installed plug-ins.
        code_dir: Where modules are looked for first, if it exists.
    """

    target: str | None
    code_dir: str

    def load(self) -> HookManager:
        """Import the hooks, in a worker.

        Raises:
            ConfigurationError: There is no such module, or a hook cannot be called.
            Exception: What a module has raised.
        """
        if os.path.isdir(self.code_dir) and self.code_dir not in sys.path:
            sys.path.insert(0, self.code_dir)
        try:
            manager = installed() if self.target is None else _only(self.target)
        except pluggy.PluginValidationError as exc:
            raise ConfigurationError(f"a hook cannot be called: {exc}") from exc
        _check(manager)
        return manager


@cache
def installed() -> HookManager:
    """Return the hooks of all installed plug-ins; the same object each time, so that tests can register more."""
    manager = HookManager()
    manager.load_setuptools_entrypoints(CONTRACT)
    return manager


def _only(target: str) -> HookManager:
    manager = HookManager()
    manager.register(_find(target), target)
    if not any(map(manager.functions, HOOKS)):
        raise ConfigurationError(f"{target} has no hook: it needs a function model_fn, for example")
    return manager


def _find(target: str) -> Any:
    for entry in entry_points(group=CONTRACT, name=target):
        return entry.load()
    module_name, _, attribute = target.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the module is there, and imports another one that is not
        raise ConfigurationError(
            f"there is no module {exc.name}, and no installed plug-in {target}: a model is given by the module with "
            "its hooks"
        ) from exc
    try:
        return attrgetter(attribute)(module) if attribute else module
    except AttributeError:
        raise ConfigurationError(f"module {module_name} has no {attribute}") from None


def _check(manager: HookManager) -> None:
    for function in _functions(manager):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"the hook {function.__qualname__} is declared with `async def`, and a worker calls it as an ordinary "
                "function: write `def`"
            )


def _functions(manager: HookManager) -> Iterator[Any]:
    for name in HOOKS:
        yield from manager.functions(name)
