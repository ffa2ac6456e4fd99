"""Finds a flow by ``module:name``, as servers find applications."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from ..exceptions import AqueductError, ConfigurationError
from ..flow import Flow
from ..worker_function import InWorkers


class ModuleFailed(AqueductError):
    """A module of the user raises when it is imported. The cause is what it has raised."""


def find_flow(target: str, name: str | None) -> Flow:
    """Import a module and return the flow in it.

    Args:
        target: ``module:name``, where the name is that of a flow, a function of `in_worker`, a pool, an `Aqueduct`
            or an application.
        name: Name of the flow; None if there is one only.

    Raises:
        ConfigurationError: There is no such flow, or there are several.
        ModuleFailed: The module has raised.
    """
    flows = _flows_of(target, find_object(target, "a flow is given as MODULE:NAME, such as main:flow"))
    named = [flow for flow in flows if name in (None, flow.name)]
    if len(named) == 1:
        return named[0]
    names = ", ".join(sorted(flow.name for flow in flows))
    if not named:
        raise ConfigurationError(f"{target} has no flow {name!r}, but {names}")
    raise ConfigurationError(f"{target} has {len(named)} flows: {names}; choose one by its own name with --flow NAME")


def find_module(name: str) -> ModuleType:
    """Import a module.

    Args:
        name: Its name.

    Raises:
        ConfigurationError: There is no such module.
        ModuleFailed: It has raised.
    """
    try:
        return import_module(name)
    except (Exception, SystemExit) as exc:
        # Another module that is missing is one which this one imports.
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
            raise ConfigurationError(
                f"there is no module {exc.name} in the current directory or where Python looks for modules"
            ) from None
        raise ModuleFailed(f"{name} cannot be imported: {type(exc).__name__}: {exc}") from exc


def find_object(target: str, form: str) -> object:
    """Import a module and return an object in it.

    Args:
        target: ``module:name``.
        form: What it is and how it is given, for the message.

    Raises:
        ConfigurationError: There is no such module or object.
        ModuleFailed: The module has raised.
    """
    module_name, _, attributes = target.partition(":")
    if not module_name or not attributes:
        raise ConfigurationError(f"{form}, got {target!r}")
    found: Any = find_module(module_name)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ConfigurationError(f"module {module_name} has no {attributes}") from None
    return found


def _flows_of(target: str, found: object) -> Sequence[Flow]:
    if isinstance(found, Flow):
        return [found]
    if isinstance(found, InWorkers):
        return [found.flow]
    # Not before: they take most of the time of a start, and a module with nothing but a flow does not need them.
    from starlette.applications import Starlette

    from ..asgi.extension import Aqueduct

    if isinstance(found, Aqueduct):
        return found.flows
    # Its lifespan, which leads to the Aqueduct, may be any function: the module has made those that there are.
    flows = list(Aqueduct._all_flows) if isinstance(found, Starlette) else []
    if not flows:
        raise ConfigurationError(
            f"{target} is {found!r}: name a flow, a function of in_worker, a pool, an Aqueduct, or an application with "
            "one"
        )
    return flows
