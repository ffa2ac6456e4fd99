"""Makes a task from a request: the parameters of the task's constructor become those of the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from fastapi import params
from pydantic import BaseModel
from starlette.requests import Request

from ..exceptions import ConfigurationError
from ..flow import Flow, FlowState
from ..task import BaseTask, UploadMarker
from .upload import receive_upload

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
        max_body_size: The most bytes that a body may have.
        timeout: Seconds that an upload may wait for room in shared memory.

    Attributes:
        upload: Name of the parameter that takes the body, None when the task has none.
        signature: The other parameters, in the form in which FastAPI injects them.

    Raises:
        ConfigurationError: The constructor asks for more than a request can give.
    """

    def __init__(self, task_type: type[T], max_body_size: int, timeout: float) -> None:
        self.task_type = task_type
        self._max_body_size = max_body_size
        self._timeout = timeout
        parameters = _constructor_parameters(task_type)
        uploads = [parameter.name for parameter in parameters if _is_upload(parameter.annotation)]
        rest = [parameter for parameter in parameters if parameter.name not in uploads]
        self.upload = uploads[0] if uploads else None
        self.signature = inspect.Signature(
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in rest]
        )
        if len(uploads) > 1:
            raise ConfigurationError(
                f"{task_type.__qualname__}: a request has one body, but {' and '.join(uploads)} are of type Upload"
            )
        if uploads:
            refuse_body_parameters(task_type.__qualname__, self.signature)

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
            Exception: What `Flow.check_entry` and `receive_upload` raise.
        """
        if flow.state is FlowState.STOPPED:
            raise RuntimeError(f"flow {flow.name} is not running: {HOW_TO_START}")
        flow.check_entry(self.task_type.priority)
        if self.upload is None:
            return self.task_type(**arguments)
        body = await receive_upload(request, flow, self.upload, self._max_body_size, self._timeout)
        return self.task_type(**arguments, **{self.upload: body})


def refuse_body_parameters(owner: str, signature: inspect.Signature) -> None:
    """Refuse parameters for which FastAPI would read a body that goes to shared memory.

    Args:
        owner: Who declares the parameters.
        signature: The parameters.

    Raises:
        ConfigurationError: There are such parameters.
    """
    names = [parameter.name for parameter in signature.parameters.values() if _is_body(parameter)]
    if names:
        raise ConfigurationError(
            f"{owner}: the body of the request is the upload, so {' and '.join(names)} must come from the query, "
            "the path or the headers"
        )


def _constructor_parameters(task_type: type[BaseTask]) -> list[inspect.Parameter]:
    # Not the signature of the class: its first word would be BaseTask.__new__.
    # Evaluated, since the task's module may have `from __future__ import annotations`.
    constructor = inspect.signature(task_type.__init__, eval_str=True)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in list(constructor.parameters.values())[1:] if parameter.kind not in variable]


def _is_upload(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(isinstance(arg, UploadMarker) for arg in get_args(annotation))


def _is_body(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    sources = [item for item in (*metadata, parameter.default) if isinstance(item, params.Param | params.Body)]
    if sources:
        return isinstance(sources[-1], params.Body)
    return isinstance(kind, type) and issubclass(kind, BaseModel)
