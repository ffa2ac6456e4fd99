"""Main modules: workers import them and do not run them, and have none of the values that the main program sets."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from .finding import Finding
from .project import Guard, Module, Project, calls, dotted, guard_of, last

_RUNS = {"anyio.run", "app.run", "asyncio.run", "trio.run", "uvicorn.run"}
_RUNS_OF_ANY = {"run_app", "run_forever", "run_until_complete"}
_STARTS = {"init_processes", "start"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp


def unguarded_starts(project: Project) -> Iterator[Finding]:
    """Find programs that run, and flows that start, when their module is imported."""
    for module in project.modules:
        defined = [node.name for node in (*project.handlers_of(module), *project.tasks_of(module))]
        for call, what, starts_workers in starts_at_import(module):
            if defined:
                yield module.finding(
                    call, f'{what}, and workers import it for {defined[0]}: put it under `if __name__ == "__main__":`'
                )
            elif starts_workers:
                yield module.finding(
                    call, f"{what}, once in each process that imports it: start the flow where the server starts", False
                )


def starts_at_import(module: Module) -> Iterator[tuple[ast.Call, str, bool]]:
    """Yield the calls that run a program or start a flow when a module is imported, the first one of each line.

    Args:
        module: The module.

    Returns:
        The call; what it does, in words; and whether that is a start of workers.
    """
    reported: set[int] = set()
    for call in _calls_at_import(module.tree):
        what, starts_workers = _start_in(module, call)
        if what and call.lineno not in reported:
            reported.add(call.lineno)
            yield call, what, starts_workers


def globals_of_main(project: Project) -> Iterator[Finding]:
    """Find global names that the main program sets and handlers read: in a worker they are not set."""
    for module in project.modules:
        guards = [guard for node in module.tree.body if (guard := guard_of(node))]
        main = [statement for guard in guards for statement in guard.main]
        functions = _functions_of(module)
        reads = _read_by(project.handlers_of(module), functions)
        for name, place in _set_by(main, functions, _defined_at_import(module, guards)):
            if name in reads:
                yield module.finding(
                    place,
                    f"{name} is set by the main program and read by {reads[name]}, in whose worker the main program "
                    "does not run: set it in on_start, or pass it to the handler",
                )
        yield from _foreign_globals(module, [*main, *_reachable(main, functions)])


def _functions_of(module: Module) -> dict[str, Function]:
    return {node.name: node for node in module.tree.body if isinstance(node, Function)}


def _calls_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that are made when the module is imported of which this is a part."""
    if isinstance(node, Function | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    guard = guard_of(node)
    for child in guard.imported if guard else ast.iter_child_nodes(node):
        yield from _calls_at_import(child)


def _start_in(module: Module, call: ast.Call) -> tuple[str, bool]:
    """Return what a call runs or starts, itself or in the functions that it calls, and whether that is workers."""
    functions = _functions_of(module)
    called = [functions[name] for name in {dotted(call.func)} & functions.keys()]
    inner = [found for function in (*called, *_reachable(called, functions)) for found in calls(function)]
    for found in (call, *inner):
        if kind := _kind_of(module, found):
            name = dotted(found.func) or last(found.func)
            if found is call:
                return f"{name}() {kind} when the module is imported", kind != "runs"
            return f"{dotted(call.func)}() calls {name}() when the module is imported", kind != "runs"
    return "", False


def _kind_of(module: Module, call: ast.Call) -> str:
    name, method = module.name(call.func), last(call.func)
    if name in _RUNS or name.rpartition(".")[2] in _RUNS_OF_ANY:
        return "runs"
    if method in _STARTS and isinstance(call.func, ast.Attribute) and _is_flow(module, call.func.value):
        return "starts workers"
    if method == "add_flow" and any("integrations.aiohttp" in place for place in module.imports.values()):
        starts = [word.value for word in call.keywords if word.arg == "with_start"] + call.args[2:]
        return "" if any(isinstance(word, ast.Constant) and not word.value for word in starts) else "starts workers"
    return ""


def _is_flow(module: Module, node: ast.expr) -> bool:
    """Tell whether an expression is a flow, by its name or by what it was assigned from."""
    if "flow" in ast.unparse(node).lower():
        return True
    name = dotted(node)
    return bool(name) and any(
        dotted(made.targets[0]) == name and module.class_name(made.value.func) == "Flow"
        for made in ast.walk(module.tree)
        if isinstance(made, ast.Assign) and isinstance(made.value, ast.Call)
    )


def _set_by(
    main: Sequence[ast.AST], functions: dict[str, Function], defined: set[str]
) -> Iterator[tuple[str, ast.AST]]:
    """Yield the global names that a main program sets, itself and in the functions that it calls."""
    for statement in main:
        for name, node in _bindings(statement):
            if isinstance(node, ast.Name) or name not in defined:
                yield name, node
    for function in _reachable(main, functions):
        declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in declared:
                yield node.id, node


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a statement binds where it stands, not in the functions in it."""
    if isinstance(node, Function | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0], node
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node
    elif not isinstance(node, Scope):
        for child in ast.iter_child_nodes(node):
            yield from _bindings(child)


def _defined_at_import(module: Module, guards: Iterable[Guard]) -> set[str]:
    statements = [node for node in module.tree.body if not guard_of(node)]
    statements += [statement for guard in guards for statement in guard.imported]
    return {name for statement in statements for name, _ in _bindings(statement)}


def _read_by(handlers: Iterable[ast.ClassDef], functions: dict[str, Function]) -> dict[str, str]:
    """Return the names that handlers read, themselves and in the functions that they call, with a handler's name."""
    found: dict[str, str] = {}
    for handler in handlers:
        for tree in (*handler.body, *_reachable([handler], functions)):
            for name in _free_names(tree):
                found.setdefault(name, handler.name)
    return found


def _free_names(tree: ast.AST) -> set[str]:
    """Return the names that a function reads and does not bind itself."""
    read: set[str] = set()
    bound: set[str] = set()
    declared: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, Function | ast.ClassDef | ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.Global):
            declared.update(node.names)
    return read - (bound - declared)


def _reachable(trees: Sequence[ast.AST], functions: dict[str, Function]) -> list[Function]:
    found: dict[str, Function] = {}
    rest = list(trees)
    while rest:
        for call in calls(rest.pop()):
            name = last(call.func)
            if isinstance(call.func, ast.Name) and name in functions and name not in found:
                found[name] = functions[name]
                rest.append(functions[name])
    return list(found.values())


def _foreign_globals(module: Module, main: Iterable[ast.AST]) -> Iterator[Finding]:
    """Find values that a main program sets in other modules."""
    for statement in main:
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if dotted(node.value).partition(".")[0] in module.imports:
                    yield module.finding(
                        node,
                        f"{ast.unparse(node)} is set by the main program, which does not run in workers: if handlers "
                        "read it, set it in on_start or in Flow(worker_init=...)",
                        breaks=False,
                    )
