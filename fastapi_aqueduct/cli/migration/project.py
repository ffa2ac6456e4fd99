"""The modules of a project as syntax trees, and what they define and share."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
        modules, unreadable = [], []
        for file in _files(path):
            try:
                modules.append(Module(file, ast.parse(file.read_bytes())))
            except (SyntaxError, ValueError) as exc:
                line = getattr(exc, "lineno", None) or 1
                unreadable.append(Finding(file, line, f"the file cannot be read: {exc}"))
            except OSError as exc:
                unreadable.append(Finding(file, 1, f"the file cannot be read: {exc.strerror}"))
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
        bases = {node.name: {last(base) for base in node.bases} for module in self.modules for node in module.classes()}
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


def is_guard(node: ast.AST) -> bool:
    """Tell whether a statement is ``if __name__ == "__main__"``."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) and "__main__" in ast.unparse(node.test)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if path.is_file():
            yield path
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            is_environment = (entry / "pyvenv.cfg").exists()
            if not (entry.name.startswith(".") or entry.name in _IGNORED or is_environment or entry.is_symlink()):
                yield from _files(entry)
        elif entry.suffix == ".py":
            yield entry
