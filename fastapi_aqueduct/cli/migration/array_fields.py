"""Assignments into fields of tasks: large arrays arrive read-only, unless they are shared explicitly."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .finding import Finding
from .project import Module, Project, last

_ARRAYS = ("ndarray", "array", "NDArray", "ArrayLike")
_OTHERS = ("int", "float", "str", "bool", "bytes", "list", "List", "dict", "Dict", "set", "Set")
_IN_PLACE = ("fill", "sort", "partition", "resize", "itemset")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def assignments_into_fields(project: Project) -> Iterator[Finding]:
    """Find where handlers change arrays that are fields of tasks."""
    kinds = _kinds(project)
    for module in project.modules:
        for handler in project.handlers_of(module):
            for function in handler.body:
                if isinstance(function, Function):
                    yield from _changes(project, module, function, kinds)


def _changes(project: Project, module: Module, function: Function, kinds: dict[str, bool]) -> Iterator[Finding]:
    aliases = _aliases(function)

    def field(node: ast.AST) -> str:
        return _field(node) or (aliases.get(node.id, "") if isinstance(node, ast.Name) else "")

    def report(node: ast.AST, name: str, breaks: bool) -> Iterator[Finding]:
        if name and name not in project.shared and kinds.get(name, True):
            where = "" if name in kinds else ", if it is an array,"
            yield module.finding(
                node,
                f"field {name} is changed in place, and{where} it arrives read-only from 16 KiB on: write into a copy, "
                f'or call share_value("{name}") before',
                breaks,
            )

    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and not _is_text(node.slice):
            yield from report(node, field(node.value), True)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute | ast.Name):
            name = field(node.target)
            if name in kinds or isinstance(node.target, ast.Attribute):  # of others, most are numbers
                yield from report(node, name, name in kinds)
        elif isinstance(node, ast.Call):
            for word in node.keywords:
                if word.arg == "out":
                    yield from report(node, field(word.value), True)
            if isinstance(node.func, ast.Attribute) and node.func.attr in _IN_PLACE:
                name = field(node.func.value)
                if node.func.attr == "fill" or name in kinds:
                    yield from report(node, name, True)


def _aliases(function: Function) -> dict[str, str]:
    """Return the names of a function that stand for a field: ``image = task.image``."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if name := _field(node.value):
                found[node.targets[0].id] = name
    return found


def _field(node: ast.AST) -> str:
    """Return the field that ``task.image`` or ``tasks[0].image`` is; empty for anything else."""
    if not isinstance(node, ast.Attribute):
        return ""
    owner = node.value.value if isinstance(node.value, ast.Subscript) else node.value
    return node.attr if isinstance(owner, ast.Name) and owner.id not in ("self", "cls") else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _kinds(project: Project) -> dict[str, bool]:
    """Return the fields of which is known whether they are arrays."""
    found: dict[str, bool] = {}
    for module in project.modules:
        for task in project.tasks_of(module):
            for node in ast.walk(task):
                if isinstance(node, ast.AnnAssign):
                    _note(found, last(node.target), node.annotation)
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    _note(found, node.targets[0].attr, _origin(task, node.value))
    return found


def _origin(task: ast.ClassDef, value: ast.expr) -> ast.AST | None:
    """Return what says the type of a value: the annotation of the parameter that it is, or the value."""
    for function in task.body:
        if isinstance(function, Function) and isinstance(value, ast.Name):
            for argument in (*function.args.args, *function.args.kwonlyargs):
                if argument.arg == value.id:
                    return argument.annotation
    return value


def _note(found: dict[str, bool], name: str, origin: ast.AST | None) -> None:
    if isinstance(origin, ast.Constant) and isinstance(origin.value, int | float):
        found.setdefault(name, False)
        return
    if isinstance(origin, ast.List | ast.Dict | ast.Set | ast.JoinedStr):
        found.setdefault(name, False)
        return
    names = {last(node) for node in ast.walk(origin)} if origin is not None else set()
    if isinstance(origin, ast.Constant) and isinstance(origin.value, str):
        names = set(origin.value.replace("[", ".").replace("]", ".").replace(" ", ".").split("."))
    if names & set(_ARRAYS):
        found[name] = True
    elif names & set(_OTHERS):
        found.setdefault(name, False)
