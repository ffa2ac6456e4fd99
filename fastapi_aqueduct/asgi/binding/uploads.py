"""The uploads of one endpoint: refused early, else read into shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastapi.dependencies.models import Dependant
from starlette.requests import Request
from starlette.routing import BaseRoute

from ...exceptions import ConfigurationError, ForkedError, NotRunningError, UsageError
from ...flow import Flow, FlowState
from ...task import BaseTask
from ..body.head import judge_head
from ..body.heap import HeapGuard
from ..body.limits import BodyRules
from ..body.parts import Received, UploadPart
from ..body.upload import UploadReader
from ..errors import BodyError, missing_upload, refused_upload
from ..shutdown import raise_for_shutdown
from .form import FormFields

HOW_TO_START = (
    "the lifespan that starts it has not run. Give it to the outermost application: "
    "FastAPI(lifespan=aqueduct.lifespan), or aqueduct.install(app), or `async with aqueduct.run(app): yield` "
    "in a lifespan of your own. (The lifespan of a mounted application, or of a router included in a router that was "
    "included before, is never run. Tests run it with `with TestClient(app)` or "
    "`async with fastapi_aqueduct.testing.client(app)`.)"
)


class Uploads:
    """Receives the uploads of the requests to one endpoint.

    Args:
        parts: The uploads by name.
        rules: Rules for the body.

    Attributes:
        parts: As given.
        rules: As given.
        raw: Name of the upload that is the whole body, also if that is a form; None if there is no such upload.

    Raises:
        ConfigurationError: One upload is the whole body, and there are others.
    """

    def __init__(self, parts: Mapping[str, UploadPart], rules: BodyRules) -> None:
        self.parts = parts
        self.rules = rules
        self.raw = next((name for name, part in parts.items() if part.is_raw), None)
        if self.raw is not None and (len(parts) > 1 or parts[self.raw].is_list):
            raise ConfigurationError(
                f"{self.raw} is a RawUpload, which is the whole body: it is no list, and no other upload stands beside "
                "it; use Upload for the parts of a form"
            )

    async def receive(
        self, request: Request, flow: Flow, priority: int, timeout: float | None, task: BaseTask | None = None
    ) -> Received:
        """Refuse a request early, else read its body into shared memory.

        Args:
            request: The request.
            flow: Whose shared memory to use.
            priority: Priority of the task that the uploads are for.
            timeout: As for `check_entry`.
            task: As for `check_entry`.

        Raises:
            UsageError: The flow was never started, or not by this process.
            NotRunningError: The server stopped before the body was complete.
            Exception: As for `Flow.check_entry`, `judge_head` and `UploadReader.receive`.
        """
        # First the headers: they are cheap to check, and an error in them is more precise than a busy flow.
        try:
            head = judge_head(request, self.parts, self.rules)
            check_entry(flow, priority, timeout, task)
            with flow.tracing.upload(head.announced):
                return await UploadReader(request, head, self.parts, self.rules).receive(flow)
        except BodyError as exc:
            flow.refusals.count(exc)
            raise
        except asyncio.CancelledError as exc:
            raise_for_shutdown(request.scope, exc)

    def errors(self, received: Received) -> list[Any]:
        """Return what is wrong with the files of a body, in the format of FastAPI's 422."""
        errors: list[Any] = []
        for name, part in self.parts.items():
            views = received.uploads.get(name, [])
            if name in received.nameless:
                errors.append(refused_upload((name,), "a part of a form without a file name is no file"))
            elif part.is_required and not views:
                errors.append(missing_upload(name))
            elif part.is_required:
                places = [(name, index) if part.is_list else (name,) for index in range(len(views))]
                errors += [
                    refused_upload(place, "the file is empty")
                    for place, view in zip(places, views, strict=True)
                    if not view
                ]
        return errors

    def given(self, name: str, found: list[Any]) -> Any:
        """Return what a parameter gets for the files of its name: the list, or the only one."""
        return found if self.parts[name].is_list else found[0]


class BodyBinding(NamedTuple):
    """What an endpoint or a dependency makes of the body; read by the OpenAPI schema, the guards and the route check.

    Attributes:
        uploads: The uploads.
        guard: Guards bodies that FastAPI reads.
        fields: Fields of the form beside the uploads.
        is_whole_body: Whether there is one upload, which is named after the parameter that gets it, and nothing else in
            the body.
        refusals: Status codes of refusals that only such an endpoint has.
    """

    uploads: Uploads
    guard: HeapGuard
    fields: tuple[FormFields, ...] = ()
    is_whole_body: bool = False
    refusals: frozenset[int] = frozenset()

    def named(self, name: str) -> BodyBinding:
        """Return the same with the name of the parameter, if the upload has none yet."""
        if not self.is_whole_body:
            return self
        (part,) = self.uploads.parts.values()
        return self._replace(uploads=Uploads({name: part._replace(name=name)}, self.uploads.rules))


def body_bindings(route: BaseRoute) -> Iterator[BodyBinding]:
    """Yield the `BodyBinding` of a route's endpoint, and those of its dependencies."""
    dependant: Dependant | None = getattr(route, "dependant", None)
    pending = [] if dependant is None else [dependant]
    while pending:
        dependant = pending.pop()
        pending += dependant.dependencies
        found = getattr(dependant.call, "__aqueduct__", None)
        if isinstance(found, BodyBinding):
            yield found.named(dependant.name or "")


def refusals_of(flow: Flow) -> frozenset[int]:
    """Return the status codes with which only tasks of this flow are refused: those of tenants over their share."""
    return frozenset() if flow.fair is None else frozenset({429})


def check_entry(flow: Flow, priority: int, timeout: float | None, task: BaseTask | None) -> None:
    """Refuse a task that would have to wait for a place, as `Flow.check_entry` does.

    Args:
        flow: The flow of the task.
        priority: Its priority.
        timeout: Seconds that the flow has for it; None for a task that may wait, whatever waits before it.
        task: What is known of it before the body is read; None: nothing.

    Raises:
        UsageError: The flow was never started, or not by this process.
    """
    if timeout is None and flow.is_running:
        return
    try:
        flow.check_entry(priority, timeout or 0.0, task)
    except ForkedError as exc:
        raise UsageError(str(exc)) from None
    except NotRunningError:
        if flow.state is FlowState.STOPPED:
            raise UsageError(f"flow {flow.name} is not running: {HOW_TO_START}") from None
        raise
