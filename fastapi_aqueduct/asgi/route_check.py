"""Checks the routes of an application against its flows, when it starts and before any worker starts.

Each route alone may be correct: only the application shows that a flow is missing, that an endpoint was added as a
websocket's, or that FastAPI would read the task of a function as a JSON body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, WebSocketRoute

from ..exceptions import ConfigurationError
from ..flow import Flow
from ..logger import log
from ..params import no_parameter
from ..task import BaseTask
from .binding.parameters import typed_signature
from .binding.task_fields import task_fields_in
from .binding.uploads import BodyBinding, body_bindings
from .dependencies import GivenFlow
from .endpoints.stream_endpoint import StreamEndpoint


class RouteCheck:
    """Checks the routes of an application, and of the applications that are mounted on it.

    Args:
        given: The flows of the `Aqueduct` that starts with the application.
        others: The flows of others, which may start later.
        jobs: The jobs of all of them.
    """

    def __init__(self, given: tuple[Flow, ...], others: Iterable[Flow], jobs: Iterable[object]) -> None:
        self._given = given
        self._known = {*given, *others}
        self._jobs = set(jobs)

    def check(self, app: Starlette) -> None:
        """Check every route.

        Args:
            app: The application.

        Raises:
            ConfigurationError: An endpoint cannot work in this application.
        """
        overrides = getattr(app, "dependency_overrides", None) or {}
        for route, path, max_size in _routes(app.routes):
            mounted = getattr(route, "app", None)
            if isinstance(route, Mount) and isinstance(mounted, Starlette):
                self.check(mounted)
            _check_body(route, path)
            for function in _functions(route):
                self._check_function(route, path, function, overrides)
                self._warn_of_size(app, path, function, max_size)

    def _check_function(self, route: BaseRoute, path: str, function: Any, overrides: dict[Any, Any]) -> None:
        name = getattr(function, "__qualname__", repr(function))
        is_ours = hasattr(function, "__aqueduct__") or hasattr(function, "__flow_endpoint__")
        if isinstance(route, WebSocketRoute) and is_ours:
            raise ConfigurationError(
                f"{name} at {path}: an endpoint of a websocket cannot get a task of its request; use FlowDep: take "
                "`flow: FlowDep` and call `await flow.process(task)`, or iterate over `flow.stream(task)`"
            )
        if not is_ours and function is getattr(route, "endpoint", None):
            _check_no_task_field(path, name, function)
        endpoint, _ = getattr(function, "__flow_endpoint__", (None, None))
        if isinstance(endpoint, StreamEndpoint) and not hasattr(route, "dependant"):
            raise ConfigurationError(
                f"{name} at {path}: flow_endpoint makes streamed responses on routes of FastAPI only; on a plain "
                "Starlette route make the task in the function, and return "
                "`await stream_response(request, flow.stream(task))`"
            )
        jobs = getattr(function, "__jobs__", None)
        if jobs is not None and jobs not in self._jobs:
            raise ConfigurationError(
                f"{name} at {path}: its jobs were not given to Aqueduct, which runs them: Aqueduct(flow, jobs=jobs)"
            )
        flow = function.flow if isinstance(function, GivenFlow) else endpoint.flow if endpoint is not None else None
        if flow is None or flow in self._known or flow.is_running or GivenFlow(flow) in overrides:
            return
        names = ", ".join(given.name for given in self._given)
        raise ConfigurationError(
            f"flow {flow.name} was not given to Aqueduct({names}): the endpoint at {path} needs {flow!r}"
        )

    def _warn_of_size(self, app: Starlette, path: str, function: Any, max_size: int | None) -> None:
        binding: BodyBinding | None = getattr(function, "__aqueduct__", None)
        if binding is None or not binding.uploads.parts:
            return
        flow = binding.guard.flow or (self._given[0] if len(self._given) == 1 else None)
        if flow is None:
            return
        size = binding.guard.rules.max_size({"app": app, "starlette.max_body_size": max_size})
        if size > flow.memory_limit:
            log.warning(
                "the endpoint at %s accepts bodies of up to %d bytes (max_body_size), but flow %s has %d bytes of "
                "shared memory (memory_limit): larger bodies are refused with 413",
                path,
                size,
                flow.name,
                flow.memory_limit,
            )


def _routes(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[BaseRoute, str, int | None]]:
    """Yield the routes with their paths and FastAPI's ``max_body_size``, without those of mounted applications."""
    for context in iter_route_contexts(list(routes)):
        route, path = context.original_route, prefix + (context.path or "")
        yield route, path, getattr(context, "max_body_size", None)
        if not isinstance(getattr(route, "app", None), Starlette):
            yield from _routes(getattr(route, "routes", None) or (), path)


def _functions(route: BaseRoute) -> Iterator[Any]:
    """Yield the functions of a route: its endpoint, and the dependencies that FastAPI calls for it."""
    dependant: Dependant | None = getattr(route, "dependant", None)
    if dependant is None:
        yield getattr(route, "endpoint", None)
        return
    pending = [dependant]
    while pending:
        dependant = pending.pop()
        pending += dependant.dependencies
        _check_fields(dependant)
        yield dependant.call


def _check_body(route: BaseRoute, path: str) -> None:
    """Refuse a second reader of a body that is one upload: there is nothing left to read for it."""
    found = [item for item in body_bindings(route) if item.uploads.parts]
    is_whole = any(item.is_whole_body for item in found)
    others = [name for item in found for name in item.uploads.parts] if is_whole and len(found) > 1 else []
    field = getattr(route, "body_field", None)
    if is_whole and field is not None:
        dependant: Dependant = route.dependant  # type: ignore[attr-defined]
        others = [item.name for item in dependant.body_params] or [field.name]
    if others:
        raise ConfigurationError(
            f"the endpoint at {path} has a parameter with UploadTo, which gets the whole body, so "
            f"{' and '.join(others)} cannot come from the body too; several uploads, and fields beside them, are "
            "parameters of a task: use flow_endpoint"
        )


def _check_no_task_field(path: str, name: str, function: Any) -> None:
    """Refuse a mark that nothing reads."""
    try:
        found = task_fields_in(typed_signature(function))
    except (TypeError, ValueError):  # an ASGI application, or another object without a signature
        return
    if found:
        raise ConfigurationError(
            f"{name} at {path}: {found[0]} has TaskField(), which sets a field of the task of a function with "
            "@flow_endpoint, and this function has none; with FlowTask() put the parameter into the constructor of the "
            "task, or set the field before the task is processed"
        )


def _check_fields(dependant: Dependant) -> None:
    for field in [*dependant.body_params, *dependant.query_params]:
        task = _task_in(field.field_info.annotation)
        if task is not None:
            raise ConfigurationError(no_parameter(task.__qualname__))


def _task_in(annotation: Any) -> type[BaseTask] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseTask):
        return annotation
    return next((task for item in get_args(annotation) if (task := _task_in(item)) is not None), None)
