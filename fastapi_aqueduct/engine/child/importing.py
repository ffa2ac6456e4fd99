"""Imports of the user's code in a worker, and explanations of imports that fail.

A handler is pickled as the name of its class, and the worker imports its module. The main module of the application
runs again for that, under another name, as ``multiprocessing`` does it.
"""

from __future__ import annotations

import builtins
import pickle
import sys
from contextvars import ContextVar
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ...exceptions import AqueductError, ConfigurationError

GUARD = 'put what starts the application under `if __name__ == "__main__":`'
"""The advice for a main module that cannot be imported a second time."""

MAIN = ("__main__", "__mp_main__")
"""The names of the main module of the application."""


class NotImportable(AqueductError):
    """A worker could not import a class or function of its program.

    Args:
        module: The module.
        name: The qualified name in the module.
        reason: The text of what the import raised.
        is_missing: Whether the module was imported and does not have the name.
        started_flow: The flow that the module started while it was imported; empty when it started none.
    """

    def __init__(self, module: str, name: str, reason: str, is_missing: bool, started_flow: str) -> None:
        super().__init__(module, name, reason, is_missing, started_flow)
        self.module = module
        self.name = name
        self.reason = reason
        self.is_missing = is_missing
        self.started_flow = started_flow

    def __str__(self) -> str:
        return f"the worker cannot import {self.name} from {self.module}: {self.reason}"


class ProgramUnpickler(pickle.Unpickler):
    """Unpickles a program, and raises `NotImportable` for a class or function that cannot be imported.

    Args:
        file: The pickled program.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Import a class or a function; see `import_name`."""
        # Not the inherited method: it reports every AttributeError of a module as a missing name.
        return import_name(module, name)


def import_name(module: str, name: str) -> Any:
    """Return what a module has under a qualified name.

    Raises:
        NotImportable: The import failed, also by SystemExit, which a main module without a guard may raise.
    """
    _import.is_running, _import.started_flow = True, ""
    part = ""
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found
    except BaseException as exc:
        is_missing = isinstance(exc, AttributeError) and bool(part) and part in (exc.name, *exc.args)
        reason = f"it has no {name}" if is_missing else f"{type(exc).__name__}: {exc}"
        raise NotImportable(module, name, reason, is_missing, _import.started_flow) from exc
    finally:
        _import.is_running = False


class _Import:
    """State of this process: whether it is a worker that is importing its program."""

    is_running = False
    started_flow = ""


_import = _Import()


def check_not_importing(flow: str) -> None:
    """Refuse to start a flow while a worker imports its program: workers would start workers.

    Args:
        flow: Name of the flow.

    Raises:
        ConfigurationError: This process is a worker that is importing.
    """
    if _import.is_running:
        _import.started_flow = flow
        raise ConfigurationError(f"flow {flow} is started while a worker imports the main module; {GUARD}")


def explain(failure: NotImportable) -> str:
    """Return what a worker could not import, why, and what to do. Runs in the API process."""
    is_main = failure.module in MAIN
    module = sys.modules.get("__main__" if is_main else failure.module)
    if is_main:
        source, why = _explain_main(failure, main_module())
    else:
        source, why = failure.module, _explain_module(failure, module)
    return f"the worker cannot import {_kind(module, failure.name)}{failure.name} from {source}: {why}"


def explain_forkserver() -> str:
    """Return why a child of the forkserver may end before it reports an error. Runs in the API process."""
    main = main_module()
    return f"if its output says that {main.source} could not be imported: {main.obstacle or GUARD}"


class MainModule(NamedTuple):
    """The main module of the API process.

    Attributes:
        source: Its name or its file.
        obstacle: Why no other process can import it, and what to do; empty when other processes can.
    """

    source: str
    obstacle: str = ""

    def adopt(self) -> None:
        """Explain failures as the process that has this main module would, from now on in this process."""
        _adopted.append(self)


_adopted: list[MainModule] = []


def main_module() -> MainModule:
    """Return the main module of the application: that of this process, or one that was adopted."""
    if _adopted:
        return _adopted[-1]
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if hasattr(builtins, "__IPYTHON__"):
        return MainModule(
            "the notebook",
            "what a cell defines exists in the process of the notebook only; write it to a module beside the notebook, "
            "for example with `%%writefile pipeline.py`, and import it",
        )
    if spec is not None and spec.name.rpartition(".")[2] == "__main__":
        return MainModule(
            spec.name,
            "other processes cannot import what `python -m` runs as a package; move the definition to another module "
            "of the package and import it",
        )
    if spec is not None:
        return MainModule(spec.name)
    if file is None or not Path(file).is_file():
        return MainModule(
            "the main module",
            "what is typed in or piped to Python exists in this process only; write it to a module and import it",
        )
    return MainModule(str(file))


def _explain_main(failure: NotImportable, main: MainModule) -> tuple[str, str]:
    if main.obstacle:
        return main
    if failure.started_flow:
        return main.source, f"it starts flow {failure.started_flow} when it is imported; {GUARD}"
    if failure.is_missing:
        return main.source, f'{failure.reason}; define it at the top level, outside `if __name__ == "__main__":`'
    return main.source, f"{failure.reason}; each worker imports it once more: {GUARD}"


def _explain_module(failure: NotImportable, module: ModuleType | None) -> str:
    if not failure.reason.startswith(ModuleNotFoundError.__name__) or module is None or _is_on_path(failure.module):
        return failure.reason
    return (
        f"{failure.reason}; {module.__file__} was loaded by its path and not from sys.path, as pytest does with "
        "--import-mode=importlib: move the definition to a module that can be imported, or add its directory to "
        "sys.path (with pytest's option `pythonpath`)"
    )


def _kind(module: ModuleType | None, name: str) -> str:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, ContextVar):
        return "context variable "
    return "class " if isinstance(found, type) else "function " if callable(found) else ""


def _is_on_path(name: str) -> bool:
    return PathFinder.find_spec(name.partition(".")[0]) is not None
