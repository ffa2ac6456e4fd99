"""Names that do not exist here, and results that are others."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...replaced import REPLACED, REPLACED_MEMBERS
from .finding import Finding
from .project import Module, Project, last

_ROOTS = ("aqueduct", "fastapi_aqueduct")
_TIMES = REPLACED_MEMBERS["metrics.task.TaskMetrics"]
_QUEUE_SIZES = REPLACED_MEMBERS["metrics.collect.Collector"]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def replaced_names(project: Project) -> Iterator[Finding]:
    """Find names that have no counterpart: imports, uses, and methods that would override them."""
    for module in project.modules:
        for node in ast.walk(module.tree):
            for name, advice in _replaced_by(module, node):
                if advice:
                    yield module.finding(node, f"{name} does not exist here: {advice}")


def _replaced_by(module: Module, node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names in a node that have no counterpart, each with what replaces it."""
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from ((alias.name, _advice(f"{node.module}.{alias.name}")) for alias in node.names)
    elif isinstance(node, ast.Attribute) and node.attr in _TIMES and _is_metrics(node.value):
        yield f"metrics.{node.attr} of a task", _TIMES[node.attr]
    elif isinstance(node, ast.Attribute):
        yield node.attr, _QUEUE_SIZES.get(node.attr) or _advice(module.name(node))
    elif isinstance(node, Function):
        yield node.name, _QUEUE_SIZES.get(node.name, "")


def _advice(name: str) -> str:
    """Return what replaces a name with its module; empty if it exists here, or is of another package."""
    root, _, rest = name.partition(".")
    place, _, last_part = rest.rpartition(".")
    return REPLACED.get(place, {}).get(last_part, "") if root in _ROOTS else ""


def results(project: Project) -> Iterator[Finding]:
    """Find comparisons of what `Flow.process` returns, which is the task, with True."""
    for module in project.modules:
        for function in (node for node in ast.walk(module.tree) if isinstance(node, Function)):
            names = {
                last(node.targets[0])
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and _is_call(node.value)
            } - {""}
            for node in ast.walk(function):
                if isinstance(node, ast.Compare) and (_is_call(node.left) or last(node.left) in names):
                    if any(isinstance(other, ast.Constant) and other.value is True for other in node.comparators):
                        yield module.finding(
                            node, "process() returns the task, which is true, and not True: leave out the comparison"
                        )


def _is_call(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Await) and isinstance(node.value, ast.Call) and last(node.value.func) == "process"):
        return False
    # SocketFlow.process gets a list, and returns True.
    return not (node.value.args and isinstance(node.value.args[0], ast.List | ast.ListComp))


def _is_metrics(node: ast.AST) -> bool:
    # Not the argument of an exporter, which has the lists of aqueduct.
    return isinstance(node, ast.Attribute) and node.attr == "metrics"
