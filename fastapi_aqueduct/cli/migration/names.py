"""Names that do not exist here, and results that are others."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...replaced import REPLACED
from .finding import Finding
from .project import Project, last

_ROOTS = ("aqueduct", "fastapi_aqueduct")
_TIMES = ("batch_sizes", "batch_times", "handle_times", "task_sizes", "transfer_times")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def replaced_names(project: Project) -> Iterator[Finding]:
    """Find imports of names that have no counterpart."""
    for module in project.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                root, _, place = node.module.partition(".")
                for alias in node.names if root in _ROOTS else ():
                    if advice := REPLACED.get(place, {}).get(alias.name):
                        yield module.finding(node, f"{alias.name} does not exist here: {advice}")
            elif isinstance(node, ast.Attribute) and node.attr in _TIMES and _is_metrics(node.value):
                yield module.finding(
                    node, f"metrics.{node.attr} of a task does not exist here: task.metrics.steps has its times"
                )


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
