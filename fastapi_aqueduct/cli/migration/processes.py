"""Start methods, and what cannot be sent to a worker: it was inherited by a fork, and is pickled here."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .finding import Finding
from .project import Module, Project, calls, last

_UNPICKLABLE = {"Condition", "Event", "Lock", "RLock", "Semaphore", "Thread", "ThreadPoolExecutor", "connect"}
_OPENS = {"open", "builtins.open", "io.open"}  # and not PIL.Image.open

Function = ast.FunctionDef | ast.AsyncFunctionDef


def forks(project: Project) -> Iterator[Finding]:
    """Find start methods that are refused, and forks of processes that may have a flow."""
    for module in project.modules:
        for call in calls(module.tree):
            words = {word.arg: word.value for word in call.keywords}
            method = words.get("mp_start_method")
            if _is_fork(method):
                yield module.finding(call, 'mp_start_method="fork" is refused: leave it out, or use "forkserver"')
            name, first = module.class_name(call.func), call.args[0] if call.args else words.get("method")
            if name in ("set_start_method", "get_context") and _is_fork(first):
                yield module.finding(call, f'{name}("fork") has no effect on flows, which start fresh processes', False)
            if module.name(call.func) == "os.fork":
                yield module.finding(
                    call, "a fork cannot use a flow that was started before it: start the flow after it", False
                )
        preloads = any(last(call.func) == "preload" for call in calls(module.tree))  # SocketFlow.preload
        for node in module.tree.body if not preloads else ():
            if isinstance(node, ast.Assign) and last(node.targets[0]) == "preload_app" and _is_true(node.value):
                yield module.finding(
                    node,
                    "gunicorn forks its workers: start flows in the lifespan or in post_fork, or use "
                    "SocketFlow.preload",
                    False,
                )


def unpicklable(project: Project) -> Iterator[Finding]:
    """Find conditions and handlers that cannot be pickled."""
    for module in project.modules:
        for call in calls(module.tree):
            if (condition := _condition(module, call)) is not None:
                yield from _lambda(module, condition)
        for function in (node for node in ast.walk(module.tree) if isinstance(node, Function)):
            yield from _local(module, function, project)
        for handler in project.handlers_of(module):
            yield from _state(module, handler)


def _is_fork(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == "fork"


def _is_true(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _condition(module: Module, call: ast.Call) -> ast.expr | None:
    if module.class_name(call.func) != "FlowStep":
        return None
    if len(call.args) > 1:
        return call.args[1]
    return next((word.value for word in call.keywords if word.arg == "handle_condition"), None)


def _lambda(module: Module, condition: ast.expr) -> Iterator[Finding]:
    named = {  # a lambda does not know the name that it is assigned to
        last(node.targets[0])
        for node in module.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
    }
    if isinstance(condition, ast.Lambda) or (isinstance(condition, ast.Name) and condition.id in named):
        yield module.finding(
            condition,
            "handle_condition is a lambda, which cannot be sent to a worker: define a function at the top of a module",
        )


def _local(module: Module, function: Function, project: Project) -> Iterator[Finding]:
    """Find conditions, handlers and tasks that are defined in a function."""
    functions = {node.name for node in function.body if isinstance(node, Function)}
    for node in ast.walk(function):
        if isinstance(node, ast.ClassDef) and node.name in project.handlers | project.tasks:
            yield module.finding(
                node, f"{node.name} is defined in a function, and workers cannot import it: define it at the top"
            )
        elif isinstance(node, ast.Call) and last(condition := _condition(module, node) or node) in functions:
            yield module.finding(
                condition,
                f"{last(condition)} is defined in a function, and cannot be sent to a worker: define it at the top",
            )


def _unpicklable_value(module: Module, value: ast.expr | None) -> str:
    """Return what a value is that cannot be pickled; empty for any other."""
    if isinstance(value, ast.Lambda):
        return "a lambda"
    if isinstance(value, ast.Call):
        if module.name(value.func) in _OPENS or module.class_name(value.func) in _UNPICKLABLE:
            return ast.unparse(value)
    return ""


def _state(module: Module, handler: ast.ClassDef) -> Iterator[Finding]:
    """Find what the constructor of a handler makes and pickle refuses."""
    for function in handler.body:
        if isinstance(function, Function) and function.name == "__init__":
            for node in ast.walk(function):
                if isinstance(node, ast.Assign | ast.AnnAssign) and (what := _unpicklable_value(module, node.value)):
                    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                    if isinstance(target, ast.Attribute):
                        yield module.finding(
                            node,
                            f"{ast.unparse(target)} of {handler.name} is {what}, and a handler is pickled into its "
                            "workers: make it in on_start",
                        )
