"""Who may see the status page: checks that a dependency stands before it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute

from ...exceptions import ConfigurationError


class Exposure:
    """Checks that the routes of a status page have dependencies beside its own, wherever they are included.

    It sees the dependencies of an include, of the application and of a mounted FastAPI application. A middleware is not
    seen: it may check nothing.

    Args:
        owns: Tells whether an endpoint is one of the page.
        own: The functions on which routes of the page depend themselves.
        is_public: Whether the page may be without dependencies.
    """

    def __init__(self, owns: Callable[[Any], bool], own: Collection[Any], is_public: bool) -> None:
        self._owns = owns
        self._own = own
        self._is_public = is_public

    def check(self, app: Starlette) -> None:
        """Check the routes of an application, and of all that is mounted on it.

        Args:
            app: The application.

        Raises:
            ConfigurationError: The page is there, and may be seen by all.
        """
        for path, is_guarded in self._find(app.routes):
            if not is_guarded and not self._is_public:
                raise ConfigurationError(
                    f"the status page at {path} shows the workers and can restart them, and no dependency stands "
                    'before it: app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(check)]), '
                    "where check raises HTTPException for all who may not see it; or, if all may, "
                    "Aqueduct(..., admin_is_public=True)"
                )

    def check_request(self, request: Request) -> None:
        """Check the application that has got a request: it may be hidden from the one that was started.

        Args:
            request: A request for the page.

        Raises:
            HTTPException: The page is where its dependencies cannot be seen.
        """
        if self._is_public:
            return
        found = [is_guarded for _, is_guarded in self._find(request.app.routes)]
        if not found or not all(found):
            raise HTTPException(
                403,
                "The status page is included where no dependency is seen before it. Use "
                "app.include_router(aqueduct.admin, dependencies=[...]), or Aqueduct(..., admin_is_public=True).",
            )

    def _find(self, routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the routes of the page: their paths, and whether others stand before them."""
        for context in iter_route_contexts(list(routes)):
            path = prefix + (context.path or "")
            if self._owns(getattr(context, "endpoint", None)):
                dependencies = getattr(context, "dependencies", None) or ()
                yield path, any(depends.dependency not in self._own for depends in dependencies)
            yield from self._find(getattr(context.original_route, "routes", None) or (), path)
