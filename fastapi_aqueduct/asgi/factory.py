"""Makes a task from a request: the parameters of the task's constructor become those of the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import UnionType
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin

from fastapi import params
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from ..exceptions import ConfigurationError, NotRunningError
from ..flow import Flow, FlowState
from ..task import BaseTask, FormField, UploadInfo, UploadMarker
from .form import FormFields
from .limits import BodyRules
from .upload import Received, UploadReader, missing

T = TypeVar("T", bound=BaseTask)

HOW_TO_START = (
    "the lifespan that starts it has not run. Give it to the outermost application: "
    "FastAPI(lifespan=aqueduct.lifespan), or aqueduct.install(app), or `async with aqueduct.run(app): yield` "
    "in a lifespan of your own. (The lifespan of a mounted application, or of a router included in a router that was "
    "included before, is never run. Tests run it with `with TestClient(app)` or "
    "`async with fastapi_aqueduct.testing.client(app)`.)"
)


class TaskFactory(Generic[T]):
    """Knows what a task needs from a request.

    Args:
        task_type: The class of the task.
        rules: What is taken of the body.
        timeout: Seconds that the flow has for a task.

    Attributes:
        uploads: Names of the parameters that take the body or parts of it.
        required: Those of them that must come.
        fields: The parameters that come from other fields of the form; none when the task has no upload.
        signature: The other parameters, in the form in which FastAPI injects them.

    Raises:
        ConfigurationError: The constructor asks for more than a request can give.
    """

    def __init__(self, task_type: type[T], rules: BodyRules, timeout: float) -> None:
        self.task_type = task_type
        self.rules = rules
        self._timeout = timeout
        parameters = _constructor_parameters(task_type)
        uploads = {name: item for name, item in parameters.items() if _is_upload(item.annotation)}
        infos = {name for name, item in parameters.items() if _is_info(item.annotation)}
        rest = [item for name, item in parameters.items() if name not in uploads and name not in infos]
        signature = inspect.Signature([item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in rest])
        self.uploads = tuple(uploads)
        self.required = tuple(name for name, item in uploads.items() if item.default is item.empty)
        self._infos = {name: name.removesuffix("_info") for name in infos}
        self._check_infos()
        self.fields: FormFields | None = None
        if uploads:
            self.fields = FormFields(task_type.__qualname__, signature)
            signature = self.fields.rest
        elif rules.media_types or rules.accept_gzip:
            raise ConfigurationError(f"{task_type.__qualname__} has no parameter of type Upload to say more about")
        self.signature = signature

    def dependency(self) -> Callable[..., Awaitable[dict[str, Any]]]:
        """Return a dependency through which FastAPI validates the parameters that are not the body."""

        async def arguments(**values: Any) -> dict[str, Any]:
            return values

        arguments.__signature__ = self.signature  # type: ignore[attr-defined]
        return arguments

    async def make(self, request: Request, flow: Flow, arguments: dict[str, Any]) -> T:
        """Make the task: refuse early, then read the body into shared memory, then call the constructor.

        Args:
            request: Where the body comes from.
            flow: Where the task will go.
            arguments: The other parameters.

        Raises:
            RuntimeError: The flow was never started.
            Exception: What `Flow.check_entry` and `UploadReader` raise.
        """
        if not self.uploads:
            return self.make_at_once(flow, arguments)
        task, _ = await self.make_with(request, flow, arguments, None)
        return task

    def make_at_once(self, flow: Flow, arguments: dict[str, Any]) -> T:
        """Make a task that has no upload, as `make` does."""
        self._check_entry(flow)
        return self.task_type(**arguments)

    async def make_with(
        self, request: Request, flow: Flow, arguments: dict[str, Any], fields: FormFields | None
    ) -> tuple[T, dict[str, Any]]:
        """Make a task that has an upload, as `make` does.

        Args:
            request: Where the body comes from.
            flow: Where the task will go.
            arguments: The other parameters.
            fields: What somebody else wants from the form.

        Returns:
            The task, and the values of these fields.
        """
        # The headers cost nothing to judge, and say more than that the flow is busy.
        reader = UploadReader(request, self.uploads, self.required, self.rules)
        self._check_entry(flow)
        received = await reader.receive(flow)
        return await self._build(received, arguments, fields)

    def _check_entry(self, flow: Flow) -> None:
        try:
            flow.check_entry(self.task_type.priority, self._timeout)
        except NotRunningError:
            if flow.state is FlowState.STOPPED:
                raise RuntimeError(f"flow {flow.name} is not running: {HOW_TO_START}") from None
            raise

    async def _build(
        self, received: Received, arguments: dict[str, Any], fields: FormFields | None
    ) -> tuple[T, dict[str, Any]]:
        # As before: an empty file is none.
        uploads = {name: view for name, view in received.uploads.items() if view}
        errors: list[Any] = [missing(name) for name in self.required if name not in uploads]
        groups: list[dict[str, Any]] = []
        for group in (self.fields, fields):
            values, wrong = await group.read(received.form) if group else ({}, [])
            groups.append(values)
            errors += wrong
        if errors:
            raise RequestValidationError(errors)
        infos = {name: received.infos[of] for name, of in self._infos.items() if of in uploads}
        return self.task_type(**arguments, **groups[0], **uploads, **infos), groups[1]

    def _check_infos(self) -> None:
        strays = [name for name, of in self._infos.items() if of not in self.uploads]
        if strays:
            raise ConfigurationError(
                f"{self.task_type.__qualname__}: {' and '.join(strays)} of type UploadInfo must be named after an "
                "upload: image_info: UploadInfo beside image: Upload"
            )


def _is_info(annotation: Any) -> bool:
    return annotation is UploadInfo or (_is_union(annotation) and UploadInfo in get_args(annotation))


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


class Documented(NamedTuple):
    """What the schema must say about an endpoint or a dependency that takes a task.

    Attributes:
        factory: Makes the task.
        fields: What else is wanted from the form.
    """

    factory: TaskFactory[Any]
    fields: FormFields | None = None


def _constructor_parameters(task_type: type[BaseTask]) -> dict[str, inspect.Parameter]:
    # Not the signature of the class: its first word would be BaseTask.__new__.
    # Evaluated, since the task's module may have `from __future__ import annotations`.
    constructor = inspect.signature(task_type.__init__, eval_str=True)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(constructor.parameters.values())[1:]
    return {parameter.name: _translated(parameter) for parameter in parameters if parameter.kind not in variable}


def _translated(parameter: inspect.Parameter) -> inspect.Parameter:
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *metadata = get_args(parameter.annotation)
    if not any(isinstance(item, FormField) for item in metadata):
        return parameter
    known = [params.Form() if isinstance(item, FormField) else item for item in metadata]
    return parameter.replace(annotation=Annotated[kind, *known])


def _is_upload(annotation: Any) -> bool:
    if _is_union(annotation):
        return any(map(_is_upload, get_args(annotation)))
    return get_origin(annotation) is Annotated and any(isinstance(arg, UploadMarker) for arg in get_args(annotation))
