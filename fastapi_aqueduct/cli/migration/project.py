"""The modules of a project as syntax trees, and what they define and share."""

from __future__ import annotations

import ast
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ...exceptions import ConfigurationError
from .finding import Finding

_IGNORED = {"__pycache__", "build", "dist", "node_modules", "site-packages"}


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        path: Its path.
        tree: Its syntax tree.
    """

    path: Path
    tree: ast.Module

    def finding(self, node: ast.AST, text: str, breaks: bool = True) -> Finding:
        """Return a finding.

        Args:
            node: Where it is.
            text: What is there, and what to do.
            breaks: Whether it fails.
        """
        return Finding(self.path, getattr(node, "lineno", 1), text, breaks)

    @cached_property
    def imports(self) -> dict[str, str]:
        """What the imported names stand for: ``{"run": "asyncio.run"}`` after ``from asyncio import run``."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.partition(".")[0]
                    found[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(node, ast.ImportFrom):
                place = "." * node.level + (node.module or "")
                found.update({alias.asname or alias.name: f"{place}.{alias.name}" for alias in node.names})
        return found

    def name(self, node: ast.AST) -> str:
        """Return what a dotted name stands for with the imports of the module, or the last part of an expression.

        Args:
            node: The name, such as that of a function which is called.
        """
        root, dot, rest = dotted(node).partition(".")
        return self.imports.get(root, root) + dot + rest if root else last(node)

    def class_name(self, node: ast.AST) -> str:
        """Return the name of a class without its module; empty if the node is none.

        Args:
            node: The class as it is named here: ``BaseTask``, ``aqueduct.BaseTask``, or with type arguments.
        """
        return self.name(node.value if isinstance(node, ast.Subscript) else node).rpartition(".")[2]

    def classes(self) -> Iterator[ast.ClassDef]:
        """Yield all classes."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef):
                yield node


@dataclass(frozen=True)
class Project:
    """The files of a project.

    Attributes:
        modules: Those that could be read.
        unreadable: A finding for each of the others.
        handlers: Names of the classes of handlers.
        tasks: Names of the classes of tasks.
        shared: Names of the fields that are shared explicitly.
    """

    modules: Sequence[Module]
    unreadable: Sequence[Finding]
    handlers: frozenset[str] = field(init=False)
    tasks: frozenset[str] = field(init=False)
    shared: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "handlers", self._subclasses("BaseTaskHandler"))
        object.__setattr__(self, "tasks", self._subclasses("BaseTask"))
        object.__setattr__(self, "shared", frozenset(self._shared_fields()))

    @classmethod
    def read(cls, path: Path) -> Project:
        """Read a file, or all files of a directory but those of environments and hidden directories.

        Args:
            path: The file or directory.

        Raises:
            ConfigurationError: There is none, or there is no Python file in it.
        """
        modules: list[Module] = []
        unreadable: list[Finding] = []
        for file in _files(path, unreadable):
            try:
                modules.append(Module(file, _parse(file)))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
                line = getattr(exc, "lineno", None) or 1
                unreadable.append(Finding(file, line, f"the file cannot be read: {exc}"))
            except OSError as exc:
                unreadable.append(_closed(file, exc))
        if not modules and not unreadable:
            raise ConfigurationError(f"there is no Python file at {path}")
        return cls(modules, unreadable)

    def handlers_of(self, module: Module) -> Iterator[ast.ClassDef]:
        """Yield the classes of handlers that a module defines."""
        return (node for node in module.classes() if node.name in self.handlers)

    def tasks_of(self, module: Module) -> Iterator[ast.ClassDef]:
        """Yield the classes of tasks that a module defines."""
        return (node for node in module.classes() if node.name in self.tasks)

    def _subclasses(self, root: str) -> frozenset[str]:
        bases: defaultdict[str, set[str]] = defaultdict(set)
        for module in self.modules:
            for node in module.classes():
                bases[node.name] |= {module.class_name(base) for base in node.bases}
        found = {root}
        while more := {name for name, names in bases.items() if names & found} - found:
            found |= more
        return frozenset(found - {root})

    def _shared_fields(self) -> Iterator[str]:
        for module in self.modules:
            for call in calls(module.tree):
                if last(call.func) in ("share_value", "share_value_with_data"):
                    for value in [*call.args[:1], *(word.value for word in call.keywords if word.arg == "field_name")]:
                        if isinstance(value, ast.Constant) and isinstance(value.value, str):
                            yield value.value


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield all calls in a tree."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def last(node: ast.AST) -> str:
    """Return the last part of a dotted name; empty if the node is none."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def dotted(node: ast.AST) -> str:
    """Return a dotted name; empty if the node is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


class Guard(NamedTuple):
    """A statement ``if __name__ == "__main__"``, or with ``!=``.

    Attributes:
        main: What runs in the main program only.
        imported: What runs only when the module is imported.
    """

    main: Sequence[ast.stmt]
    imported: Sequence[ast.stmt]


def guard_of(node: ast.AST) -> Guard | None:
    """Return a statement as the guard that it is; None for any other.

    Args:
        node: The statement.
    """
    if not isinstance(node, ast.If):
        return None
    for test in ast.walk(node.test):
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            if {ast.unparse(test.left), ast.unparse(test.comparators[0])} == {"__name__", "'__main__'"}:
                is_inverse = isinstance(test.ops[0], ast.NotEq)
                return Guard(node.orelse, node.body) if is_inverse else Guard(node.body, node.orelse)
    return None


def _parse(file: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of "\d"; they concern Python, and would be printed
        return ast.parse(file.read_bytes())


def _files(path: Path, unreadable: list[Finding]) -> Iterator[Path]:
    if not path.is_dir():
        if path.is_file():
            yield path
        return
    try:
        entries = sorted(path.iterdir())
    except OSError as exc:
        unreadable.append(_closed(path, exc))
        return
    for entry in entries:
        if entry.is_dir():
            is_environment = (entry / "pyvenv.cfg").exists()
            if not (entry.name.startswith(".") or entry.name in _IGNORED or is_environment or entry.is_symlink()):
                yield from _files(entry, unreadable)
        elif entry.suffix == ".py":
            yield entry
        elif entry.suffix == ".ipynb" and b"aqueduct" in entry.read_bytes():
            text = "a notebook is not read: put handlers, tasks and conditions into a module, which workers can import"
            unreadable.append(Finding(entry, 1, text, breaks=False))


def _closed(path: Path, exc: OSError) -> Finding:
    return Finding(path, 1, f"it cannot be read: {exc.strerror}", breaks=False)
