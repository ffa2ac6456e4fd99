"""Makes tasks from requests: the parameters of a task's constructor become parameters of the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_origin

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from ...exceptions import ConfigurationError
from ...flow import Flow
from ...task import BaseTask, checked_priority
from ..body.heap import HeapGuard
from ..body.limits import BodyRules
from ..body.parts import Received, UploadPart
from .form import FormFields
from .parameters import constructor_parameters, is_info, takes_list, upload_part, wants_sha256
from .task_fields import PRIORITY, is_task_field, set_field
from .uploads import BodyBinding, Uploads, check_entry

T = TypeVar("T", bound=BaseTask)

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No fields."""


class TaskFactory(Generic[T]):
    """Makes the tasks of one class from requests.

    Args:
        task_type: The class of the tasks; a generic one with its arguments.
        rules: Rules for the body.
        timeout: Seconds that the flow has for a task; None for one that may wait, whatever waits before it.
        given: Fields of the task that the endpoint sets. Parameters of these names are none of the request.

    Attributes:
        task_type: The class of the tasks.
        uploads: The parameters that get the body or parts of it.
        fields: The parameters that come from other fields of the form; None for a task without an upload.
        signature: The other parameters, in the form in which FastAPI injects them.

    Raises:
        ConfigurationError: A request cannot provide a parameter of the constructor.
    """

    def __init__(
        self, task_type: type[T], rules: BodyRules, timeout: float | None, given: Collection[str] = ()
    ) -> None:
        self.task_type: type[T] = get_origin(task_type) or task_type
        self._timeout = timeout
        parameters = constructor_parameters(task_type)
        self._has_priority = PRIORITY in parameters and is_task_field(parameters[PRIORITY])
        self._into_constructor = frozenset(name for name in given if parameters.pop(name, None) is not None)
        parts = {name: part for name, item in parameters.items() if (part := upload_part(item)) is not None}
        infos = {name: item for name, item in parameters.items() if is_info(item)}
        rest = [item for name, item in parameters.items() if name not in parts and name not in infos]
        signature = inspect.Signature([item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in rest])
        self._infos = {name: name.removesuffix("_info") for name in infos}
        self._check_infos(parameters, parts)
        for name, of in self._infos.items():
            parts[of] = parts[of]._replace(is_hashed=wants_sha256(infos[name]))
        self.uploads = Uploads(parts, rules)
        self.fields: FormFields | None = None
        if parts:
            self.fields = FormFields(self.task_type.__qualname__, signature, self.uploads.raw)
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

    def binding(self, guard: HeapGuard, fields: FormFields | None = None) -> BodyBinding:
        """Return what is made of the body.

        Args:
            guard: Guards bodies that FastAPI reads.
            fields: Fields of the form that the endpoint itself needs.
        """
        return BodyBinding(self.uploads, guard, tuple(found for found in (self.fields, fields) if found))

    async def make(self, request: Request, flow: Flow, arguments: dict[str, Any]) -> T:
        """Make a task: refuse it early, else read the body into shared memory and call the constructor.

        Args:
            request: The request.
            flow: The flow of the task.
            arguments: The parameters that are not in the body.

        Raises:
            Exception: As for `Uploads.receive`.
        """
        task, _ = await self.make_with(request, flow, arguments, None)
        return task

    def make_at_once(self, flow: Flow, arguments: dict[str, Any], given: Mapping[str, Any] = NOTHING) -> T:
        """Make a task without an upload, as `make_with` does."""
        draft = self._draft(flow, arguments, given)
        check_entry(flow, self._priority(arguments, given), self._timeout, draft)
        return self._construct(arguments, given) if given else self.task_type(**arguments)

    async def make_with(
        self,
        request: Request,
        flow: Flow,
        arguments: dict[str, Any],
        fields: FormFields | None,
        given: Mapping[str, Any] = NOTHING,
    ) -> tuple[T, dict[str, Any]]:
        """Make a task, as `make` does, with values that the endpoint needs beside it.

        Args:
            request: The request.
            flow: The flow of the task.
            arguments: The parameters that are not in the body.
            fields: Fields of the form that the endpoint itself needs.
            given: Fields of the task that the endpoint sets.

        Returns:
            The task, and the values of ``fields``.
        """
        if not self.uploads.parts:
            return self.make_at_once(flow, arguments, given), {}
        priority, draft = self._priority(arguments, given), self._draft(flow, arguments, given)
        received = await self.uploads.receive(request, flow, priority, self._timeout, draft)
        return await self._build(received, arguments, fields, given)

    def _priority(self, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> int:
        if PRIORITY in given:
            return checked_priority(given[PRIORITY])
        return checked_priority(arguments[PRIORITY]) if self._has_priority else self.task_type.priority

    def _draft(self, flow: Flow, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> T | None:
        """Return a task with the fields that are known before the body is read; None where they do not matter."""
        if flow.fair is None:
            return None
        tenant = flow.fair.tenant
        if self.fields and (not isinstance(tenant, str) or tenant in self.fields.names):
            return None  # it would have the default of a field that comes with the body
        draft: T = object.__new__(self.task_type)
        draft.__dict__.update(arguments)
        draft.__dict__.update(given)
        return draft

    def _construct(self, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> T:
        task = self.task_type(**arguments, **{name: given[name] for name in self._into_constructor})
        for name in given.keys() - self._into_constructor:
            set_field(task, name, given[name])
        return task

    async def _build(
        self, received: Received, arguments: dict[str, Any], fields: FormFields | None, given: Mapping[str, Any]
    ) -> tuple[T, dict[str, Any]]:
        errors = self.uploads.errors(received)
        groups: list[dict[str, Any]] = []
        for group in (self.fields, fields):
            values, wrong = await group.read(received.form) if group else ({}, [])
            groups.append(values)
            errors += wrong
        if errors:
            raise RequestValidationError(errors)
        files = {name: self.uploads.given(name, views) for name, views in received.uploads.items()}
        infos = {name: self.uploads.given(of, received.infos[of]) for name, of in self._infos.items() if of in files}
        return self._construct({**arguments, **groups[0], **files, **infos}, given), groups[1]

    def _check_infos(self, parameters: dict[str, inspect.Parameter], parts: dict[str, UploadPart]) -> None:
        owner = self.task_type.__qualname__
        for name, parameter in parameters.items():
            if name not in self._infos:
                if wants_sha256(parameter):
                    raise ConfigurationError(
                        f"{owner}: Sha256() asks for the digest in an UploadInfo, and {name} is none: "
                        "image_info: Annotated[UploadInfo, Sha256()] beside image: Upload"
                    )
                continue
            part = parts.get(self._infos[name])
            if part is None:
                raise ConfigurationError(
                    f"{owner}: {name} of type UploadInfo must be named after an upload: image_info: UploadInfo beside "
                    "image: Upload"
                )
            if part.is_list is not takes_list(parameter):
                kind = "list[UploadInfo]" if part.is_list else "UploadInfo"
                raise ConfigurationError(f"{owner}: {name} must be {kind}, as {part.name} is declared")
