"""Main modules: workers import them and do not run them, and have none of the values that the main program sets."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from .finding import Finding
from .project import Module, Project, calls, dotted, is_guard, last

_RUNS = {"run_app", "asyncio.run", "uvicorn.run", "run_until_complete", "run_forever"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def unguarded_starts(project: Project) -> Iterator[Finding]:
    """Find programs that run, and flows that start, when their module is imported."""
    for module in project.modules:
        defined = [node.name for node in (*project.handlers_of(module), *project.tasks_of(module))]
        adds_with_start = "integrations.aiohttp" in ast.unparse(module.tree)
        for call in _calls_at_import(module.tree.body):
            name = ast.unparse(call.func)
            if last(call.func) in _RUNS or dotted(call.func) in _RUNS:
                what = f"{name}() runs when the module is imported"
            elif last(call.func) in ("start", "init_processes") and "flow" in name.lower():
                what = f"{name}() starts workers when the module is imported"
            elif last(call.func) == "add_flow" and adds_with_start:
                what = "add_flow() starts workers when the module is imported"
            else:
                continue
            if defined:
                yield module.finding(
                    call, f'{what}, and workers import it for {defined[0]}: put it under `if __name__ == "__main__":`'
                )
            elif "starts workers" in what:
                yield module.finding(
                    call, f"{what}, once in each process that imports it: start the flow where the server starts", False
                )


def globals_of_main(project: Project) -> Iterator[Finding]:
    """Find global names that the main program sets and handlers read: in a worker they are not set."""
    for module in project.modules:
        functions = {node.name: node for node in module.tree.body if isinstance(node, Function)}
        guards = [node for node in module.tree.body if is_guard(node)]
        reads = _read_by(project.handlers_of(module), functions)
        for name, place in _set_by(guards, functions):
            if name in reads:
                yield module.finding(
                    place,
                    f"{name} is set by the main program and read by {reads[name]}, in whose worker the main program "
                    "does not run: set it in on_start, or pass it to the handler",
                )
        yield from _foreign_globals(module, guards)


def _calls_at_import(body: Iterable[ast.stmt]) -> Iterator[ast.Call]:
    for statement in body:
        if isinstance(statement, Function | ast.ClassDef) or is_guard(statement):
            continue
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
        nested = [inner for block in blocks for inner in block]
        nested += [inner for handler in getattr(statement, "handlers", []) for inner in handler.body]
        if nested:
            yield from _calls_at_import(nested)
        else:
            yield from calls(statement)


def _set_by(guards: Iterable[ast.AST], functions: dict[str, Function]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the global names that a main program sets, itself and in the functions that it calls."""
    for guard in guards:
        for node in ast.walk(guard):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, node
        for function in _reachable([guard], functions):
            declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in declared:
                    yield node.id, node


def _read_by(handlers: Iterable[ast.ClassDef], functions: dict[str, Function]) -> dict[str, str]:
    """Return the names that handlers read, themselves and in the functions that they call, with a handler's name."""
    found: dict[str, str] = {}
    for handler in handlers:
        for tree in (handler, *_reachable([handler], functions)):
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    found.setdefault(node.id, handler.name)
    return found


def _reachable(trees: list[ast.AST], functions: dict[str, Function]) -> list[Function]:
    found: dict[str, Function] = {}
    while trees:
        for call in calls(trees.pop()):
            name = last(call.func)
            if isinstance(call.func, ast.Name) and name in functions and name not in found:
                found[name] = functions[name]
                trees.append(functions[name])
    return list(found.values())


def _foreign_globals(module: Module, guards: Iterable[ast.AST]) -> Iterator[Finding]:
    """Find values that a main program sets in other modules."""
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for guard in guards:
        for node in ast.walk(guard):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and last(node.value) in imported:
                yield module.finding(
                    node,
                    f"{ast.unparse(node)} is set by the main program, which does not run in workers: if handlers read "
                    "it, set it in on_start or in Flow(worker_init=...)",
                    breaks=False,
                )
