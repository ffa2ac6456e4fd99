"""Makes tasks from requests: the parameters of a task's constructor become parameters of the request."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar, get_origin

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from ...exceptions import ConfigurationError, ForkedError, NotRunningError, UsageError
from ...flow import Flow, FlowState
from ...task import BaseTask
from ..body.head import judge_head
from ..body.heap import HeapGuard
from ..body.limits import BodyRules
from ..body.parts import Received
from ..body.upload import UploadReader
from ..errors import missing_upload, refused_upload
from ..shutdown import raise_for_shutdown
from .form import FormFields
from .parameters import constructor_parameters, is_info, takes_list, upload_part

T = TypeVar("T", bound=BaseTask)

HOW_TO_START = (
    "the lifespan that starts it has not run. Give it to the outermost application: "
    "FastAPI(lifespan=aqueduct.lifespan), or aqueduct.install(app), or `async with aqueduct.run(app): yield` "
    "in a lifespan of your own. (The lifespan of a mounted application, or of a router included in a router that was "
    "included before, is never run. Tests run it with `with TestClient(app)` or "
    "`async with fastapi_aqueduct.testing.client(app)`.)"
)


class TaskFactory(Generic[T]):
    """Makes the tasks of one class from requests.

    Args:
        task_type: The class of the tasks; a generic one with its arguments.
        rules: Rules for the body.
        timeout: Seconds that the flow has for a task.

    Attributes:
        task_type: The class of the tasks.
        rules: As given.
        uploads: The parameters that get the body or parts of it, by name.
        fields: The parameters that come from other fields of the form; None for a task without an upload.
        signature: The other parameters, in the form in which FastAPI injects them.

    Raises:
        ConfigurationError: A request cannot provide a parameter of the constructor.
    """

    def __init__(self, task_type: type[T], rules: BodyRules, timeout: float) -> None:
        self.task_type: type[T] = get_origin(task_type) or task_type
        self.rules = rules
        self._timeout = timeout
        parameters = constructor_parameters(task_type)
        parts = {name: part for name, item in parameters.items() if (part := upload_part(item)) is not None}
        infos = {name: item for name, item in parameters.items() if is_info(item)}
        rest = [item for name, item in parameters.items() if name not in parts and name not in infos]
        signature = inspect.Signature([item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in rest])
        self.uploads = parts
        self._infos = {name: name.removesuffix("_info") for name in infos}
        self._check_infos(infos)
        self.fields: FormFields | None = None
        if parts:
            self.fields = FormFields(self.task_type.__qualname__, signature)
            signature = self.fields.rest
        elif rules.media_types or rules.accept_gzip:
            owner = self.task_type.__qualname__
            raise ConfigurationError(f"{owner} has no parameter of type Upload, which media_type and accept_gzip need")
        self.signature = signature

    def dependency(self) -> Callable[..., Awaitable[dict[str, Any]]]:
        """Return a dependency with which FastAPI validates the parameters that are not in the body."""

        async def arguments(**values: Any) -> dict[str, Any]:
            return values

        arguments.__signature__ = self.signature  # type: ignore[attr-defined]
        return arguments

    async def make(self, request: Request, flow: Flow, arguments: dict[str, Any]) -> T:
        """Make a task: refuse it early, else read the body into shared memory and call the constructor.

        Args:
            request: The request.
            flow: The flow of the task.
            arguments: The parameters that are not in the body.

        Raises:
            UsageError: The flow was never started, or not by this process.
            NotRunningError: The server stopped before the body was complete.
            Exception: As for `Flow.check_entry`, `judge_head` and `UploadReader.receive`.
        """
        task, _ = await self.make_with(request, flow, arguments, None)
        return task

    def make_at_once(self, flow: Flow, arguments: dict[str, Any]) -> T:
        """Make a task without an upload, as `make` does."""
        self._check_entry(flow)
        return self.task_type(**arguments)

    async def make_with(
        self, request: Request, flow: Flow, arguments: dict[str, Any], fields: FormFields | None
    ) -> tuple[T, dict[str, Any]]:
        """Make a task, as `make` does, with values that the endpoint needs beside it.

        Args:
            request: The request.
            flow: The flow of the task.
            arguments: The parameters that are not in the body.
            fields: Fields of the form that the endpoint itself needs.

        Returns:
            The task, and the values of ``fields``.
        """
        if not self.uploads:
            return self.make_at_once(flow, arguments), {}
        # First the headers: they are cheap to check, and an error in them is more precise than a busy flow.
        head = judge_head(request, self.uploads, self.rules)
        self._check_entry(flow)
        reader = UploadReader(request, head, self.uploads, self.rules)
        try:
            received = await reader.receive(flow)
        except asyncio.CancelledError as exc:
            raise_for_shutdown(request.scope, exc)
        return await self._build(received, arguments, fields)

    def _check_entry(self, flow: Flow) -> None:
        try:
            flow.check_entry(self.task_type.priority, self._timeout)
        except ForkedError as exc:
            raise UsageError(str(exc)) from None
        except NotRunningError:
            if flow.state is FlowState.STOPPED:
                raise UsageError(f"flow {flow.name} is not running: {HOW_TO_START}") from None
            raise

    async def _build(
        self, received: Received, arguments: dict[str, Any], fields: FormFields | None
    ) -> tuple[T, dict[str, Any]]:
        errors: list[Any] = self._file_errors(received)
        groups: list[dict[str, Any]] = []
        for group in (self.fields, fields):
            values, wrong = await group.read(received.form) if group else ({}, [])
            groups.append(values)
            errors += wrong
        if errors:
            raise RequestValidationError(errors)
        files = {name: self._given(name, views) for name, views in received.uploads.items()}
        infos = {name: self._given(of, received.infos[of]) for name, of in self._infos.items() if of in files}
        return self.task_type(**arguments, **groups[0], **files, **infos), groups[1]

    def _given(self, name: str, found: list[Any]) -> Any:
        return found if self.uploads[name].is_list else found[0]

    def _file_errors(self, received: Received) -> list[Any]:
        errors: list[Any] = []
        for name, part in self.uploads.items():
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

    def _check_infos(self, infos: dict[str, inspect.Parameter]) -> None:
        owner = self.task_type.__qualname__
        for name, parameter in infos.items():
            part = self.uploads.get(self._infos[name])
            if part is None:
                raise ConfigurationError(
                    f"{owner}: {name} of type UploadInfo must be named after an upload: image_info: UploadInfo beside "
                    "image: Upload"
                )
            if part.is_list is not takes_list(parameter):
                kind = "list[UploadInfo]" if part.is_list else "UploadInfo"
                raise ConfigurationError(f"{owner}: {name} must be {kind}, as {part.name} is declared")


class TaskBinding(NamedTuple):
    """How an endpoint or a dependency gets its task; read by the OpenAPI schema and the guards.

    Attributes:
        factory: Makes the task.
        guard: Guards bodies that FastAPI reads.
        fields: Fields of the form that the endpoint itself needs.
    """

    factory: TaskFactory[Any]
    guard: HeapGuard
    fields: FormFields | None = None
