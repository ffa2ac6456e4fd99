"""References to context variables, which cannot be pickled: the module and the name by which workers find them."""

from __future__ import annotations

import inspect
import symtable
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from ...exceptions import ConfigurationError

_MAIN = ("__main__", "__mp_main__")


class Reference(NamedTuple):
    """Where a worker finds an object.

    Attributes:
        module: Name of the module.
        name: Name in the module.
    """

    module: str
    name: str


def find_variable(flow: str, variable: ContextVar[Any]) -> Reference:
    """Find the module that defines a context variable.

    Other modules may import it too, such as that of the application, which workers should not load.

    Args:
        flow: Name of the flow that declares it.
        variable: The variable.

    Raises:
        ConfigurationError: No module has it.
    """
    found = list(_find_in_modules(variable))
    if not found:
        raise ConfigurationError(
            f"the workers of flow {flow} cannot find context variable {variable.name!r}: no module has it as an "
            "attribute; assign it to a name at the top level of a module, not in a function, a class or a collection"
        )
    if len(found) > 1:
        found.sort(key=lambda reference: reference.module in _MAIN)
        for reference in found:
            if assigns(sys.modules[reference.module], reference.name):
                return reference
    return found[0]


def _find_in_modules(variable: ContextVar[Any]) -> Iterator[Reference]:
    for module_name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType):
            for name, value in list(vars(module).items()):
                if value is variable:
                    yield Reference(module_name, name)


def assigns(module: ModuleType, name: str) -> bool:
    """Tell whether the source of a module gives a name its value, and does not import it.

    Not with ``ast``: up to Python 3.12, its parser fails with a `SystemError` when another thread uses it at the same
    time, and `traceback` does where an exception is logged.
    """
    try:
        symbol = symtable.symtable(inspect.getsource(module), module.__name__, "exec").lookup(name)
    except (OSError, TypeError, SyntaxError, KeyError):
        return False
    return symbol.is_assigned() and not symbol.is_imported()
