"""The fingerprint of a flow: processes with the same code and the same declaration have the same one.

It is never that of pickled bytes: a set of strings is pickled in another order in each process. So neither the state of
a handler counts nor what a function returns.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from ...step import FlowStep
from ...worker_options import WorkerOptions
from ..options import EngineOptions

_ROOT = __name__.partition(".")[0]

_IGNORED = ("subscribers", "reporters", "refusals", "begin_spans")
"""Options of the process and not of the flow."""

_INSTALLED = {"site-packages", "dist-packages"}
"""Names of directories of installed packages."""

_SKIPPED = _INSTALLED | {"node_modules", "__pycache__"}
"""Names of directories in a package of the user's that hold no code of the user's."""


def fingerprint_of(options: EngineOptions) -> str:
    """Return the fingerprint of a flow in this process; it stays the same when handlers are replaced.

    Counted are the version of this package and of Python, what the flow declares (of functions and handlers the names),
    and the content of the user's modules: those that are imported from outside the standard library and the places for
    installed packages, and all others of the same packages. A module beside the main module that only workers import
    does not count, unless it is in such a package. The modules are read once for each process.

    Args:
        options: What the flow declares.

    Returns:
        32 hexadecimal digits.
    """
    # Not imported from there: the root of the package lists all public names, which stand above the engine.
    version = sys.modules[_ROOT].__version__
    declared = [version, sys.version, _code_digest()]
    declared += [
        f"{field.name}={describe(getattr(options, field.name))}"
        for field in fields(options)
        if field.name not in _IGNORED
    ]
    return hashlib.sha256("\n".join(declared).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def describe(value: object) -> str:
    """Describe a declared value, in the same words in each process.

    Args:
        value: A number, a text, a collection of them, a step, or anything that has a name.
    """
    if value is None or isinstance(value, (str, bytes, int, float)):
        return repr(value)
    if isinstance(value, FlowStep):
        options = {name: item for name, item in vars(value).items() if name not in ("handler", "_named_after")}
        return f"{value.numbered_name(0)}{describe(options)}"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{describe(key)}:{describe(item)}" for key, item in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ",".join(map(describe, value)) + ")"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(describe, value))) + "}"
    if isinstance(value, WorkerOptions):
        return describe({"devices": list(value.devices), "env": value.env, "threads": value.threads})
    if _is_plain(value):
        return f"{type(value).__name__}{describe(vars(value))}"
    return _name(value)


def _is_plain(value: object) -> bool:
    """Tell whether a value is one of this package's own, which have nothing but declared values."""
    return type(value).__module__.partition(".")[0] == _ROOT and hasattr(value, "__dict__")


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return f"partial({_name(value.func)})"
    if isinstance(value, ContextVar):
        return f"ContextVar({value.name!r})"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


@functools.cache
def _code_digest() -> str:
    """Return the digest of the user's modules; read once, since the code of a process does not change."""
    digest = hashlib.sha256()
    for path in sorted(_user_files()):
        with contextlib.suppress(OSError):  # removed since it was imported, or never a file
            digest.update(
                f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()


def _user_files() -> set[Path]:
    """Return the files of the user's modules."""
    installed = _installed_places()
    files: set[Path] = set()
    for module in list(sys.modules.values()):
        for place in _places(module):
            if not any(place.is_relative_to(other) for other in installed) and not _INSTALLED.intersection(place.parts):
                files.update(_sources(place) if place.is_dir() else [place])
    return files


def _places(module: ModuleType | None) -> Iterator[Path]:
    """Return the file of a module, and the directories of a package."""
    with contextlib.suppress(Exception):  # modules may be objects of any class
        for text in getattr(module, "__path__", ()):
            yield Path(text).resolve()
    with contextlib.suppress(Exception):
        file = getattr(module, "__file__", None)
        if file:
            yield Path(file).resolve()


def _sources(package: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if not (name.startswith(".") or name in _SKIPPED)]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _installed_places() -> set[Path]:
    """Return the directories of the standard library, of installed packages and of their scripts."""
    texts = {text for name, text in sysconfig.get_paths().items() if name != "data"}
    texts |= {*site.getsitepackages(), site.getusersitepackages()}
    return {Path(text).resolve() for text in texts}
