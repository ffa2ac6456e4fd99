"""Finds the name by which another process can import a flow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..engine.workers.references import assigns


def find_flow_name(reference: Callable[[], object | None]) -> str | None:
    """Return ``module:name`` of a flow, or of a function, a pool or an `Aqueduct` that has it; None if there is none.

    The module that makes it comes before those that import it.

    Args:
        reference: Returns the flow; None if there is none any more.
    """
    flow = reference()
    if flow is None:
        return None
    found: list[tuple[bool, bool, str]] = []
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module_name == "__mp_main__":
            continue
        for name, value in list(vars(module).items()):
            if value is flow or _has(value, flow):
                importable = _importable_name(module_name, module)
                if importable is not None:
                    found.append((not assigns(module, name), value is not flow, f"{importable}:{name}"))
    return min(found)[-1] if found else None


def _has(value: object, flow: object) -> bool:
    # Only what is in its __dict__: an attribute of an object that is not known may be anything, such as an import.
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except Exception:
        return False
    if not isinstance(attributes, dict):
        return False
    flows = attributes.get("flows")
    return attributes.get("flow") is flow or (isinstance(flows, tuple) and any(each is flow for each in flows))


def _importable_name(name: str, module: ModuleType) -> str | None:
    """Return the name by which another program can import a module; a program that is run has another name here."""
    if name != "__main__":
        return name
    if module.__spec__ is not None:
        return module.__spec__.name
    file = getattr(module, "__file__", None)
    return Path(file).stem if file else None
