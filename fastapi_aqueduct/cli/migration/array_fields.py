"""Assignments into fields of tasks: large arrays arrive read-only, unless they are shared explicitly."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from operator import itemgetter

from .finding import Finding
from .project import Module, Project, last

_ARRAYS = {"ndarray", "array", "NDArray", "ArrayLike"}
_OTHERS = {"int", "float", "str", "bool", "bytes", "list", "List", "dict", "Dict", "set", "Set"}
_IN_PLACE = {"fill", "itemset", "partition", "put", "resize", "sort"}
_INTO_FIRST = {"numpy.copyto", "numpy.place", "numpy.put", "numpy.putmask"} | {
    f"cv2.{shape}"
    for shape in ("circle", "drawContours", "ellipse", "fillPoly", "line", "polylines", "putText", "rectangle")
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Kinds = Mapping[str, bool | None]
"""The fields of the tasks, and whether each is an array; None: it is not known."""


def assignments_into_fields(project: Project) -> Iterator[Finding]:
    """Find where handlers change arrays that are fields of tasks."""
    kinds = _kinds(project)
    for module in project.modules:
        for handler in project.handlers_of(module):
            for function in handler.body:
                if isinstance(function, Function):
                    yield from _changes(project, module, function, kinds)


def _changes(project: Project, module: Module, function: Function, kinds: Kinds) -> Iterator[Finding]:
    names = _Names(function)
    for node, target, is_sure in _targets(module, function, kinds, names):
        name = names.field(target)
        is_field = name in kinds or not kinds  # of tasks of another package nothing is known
        if name and is_field and name not in project.shared and kinds.get(name) is not False:
            where = "" if kinds.get(name) else ", if it is an array,"
            yield module.finding(
                node,
                f"field {name} is changed in place, and{where} it arrives read-only from 16 KiB on: write into a copy, "
                f'or call share_value("{name}") before',
                is_sure and name in kinds,
            )


def _targets(
    module: Module, function: Function, kinds: Kinds, names: _Names
) -> Iterator[tuple[ast.AST, ast.expr, bool]]:
    """Yield each place that changes a value, what it changes, and whether only arrays are changed so."""
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and not _is_text(node.slice):
            yield node, node.value, True
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute | ast.Name):
            is_array = bool(kinds.get(names.field(node.target)))
            if is_array or isinstance(node.target, ast.Attribute):  # of others, most are numbers
                yield node, node.target, is_array
        elif isinstance(node, ast.Call):
            yield from ((node, word.value, True) for word in node.keywords if word.arg == "out")
            if node.args and module.name(node.func) in _INTO_FIRST:
                yield node, node.args[0], True
            if isinstance(node.func, ast.Attribute) and node.func.attr in _IN_PLACE:
                if node.func.attr == "fill" or kinds.get(names.field(node.func.value)):  # else it may be a list
                    yield node, node.func.value, True


class _Names:
    """The fields of tasks, and the names that stand for them, in a function."""

    def __init__(self, function: Function) -> None:
        assigned = [
            (node.lineno, ast.unparse(target), _field(node.value))
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
        ]
        self._assigned = sorted(assigned, key=itemgetter(0))

    def field(self, node: ast.expr) -> str:
        """Return the field whose value an expression is as it arrived; empty for what was made in the function.

        Args:
            node: The expression.
        """
        name, field = ast.unparse(node), _field(node)
        for line, assigned, value in self._assigned:
            if assigned == name and line < node.lineno:
                field = value
        return field


def _field(node: ast.AST) -> str:
    """Return the field that ``task.image`` or ``tasks[0].image`` is; empty for anything else."""
    if not isinstance(node, ast.Attribute):
        return ""
    owner = node.value.value if isinstance(node.value, ast.Subscript) else node.value
    return node.attr if isinstance(owner, ast.Name) and owner.id not in ("self", "cls") else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _kinds(project: Project) -> Kinds:
    found: dict[str, bool | None] = {}
    for module in project.modules:
        for task in project.tasks_of(module):
            for node in ast.walk(task):
                if isinstance(node, ast.AnnAssign):
                    _note(found, last(node.target), _is_array(node.annotation))
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    _note(found, node.targets[0].attr, _is_array(_origin(task, node.value)))
    return found


def _note(found: dict[str, bool | None], name: str, is_array: bool | None) -> None:
    """Note what one place says of a field; an array counts more than anything else, and that more than nothing."""
    known = found.get(name)
    found[name] = known or (is_array if is_array is not None else known)


def _origin(task: ast.ClassDef, value: ast.expr) -> ast.AST | None:
    """Return what says the type of a value: the annotation of the parameter that it is, or the value."""
    for function in task.body:
        if isinstance(function, Function) and isinstance(value, ast.Name):
            for argument in (*function.args.args, *function.args.kwonlyargs):
                if argument.arg == value.id:
                    return argument.annotation
    return value


def _is_array(origin: ast.AST | None) -> bool | None:
    """Tell whether an annotation or a value is that of an array; None: it does not say."""
    if isinstance(origin, ast.UnaryOp):
        origin = origin.operand
    if isinstance(origin, ast.Constant) and isinstance(origin.value, str):
        names = set(re.findall(r"\w+", origin.value))
    elif isinstance(origin, ast.Constant) and origin.value is not None:
        return False
    elif isinstance(origin, ast.List | ast.Dict | ast.Set | ast.JoinedStr | ast.Tuple):
        return False
    else:
        names = {last(node) for node in ast.walk(origin)} if origin is not None else set()
    if names & _ARRAYS:
        return True
    return False if names & _OTHERS else None
