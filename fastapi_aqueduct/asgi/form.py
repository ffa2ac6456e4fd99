"""Fields of a form beside an upload, validated as FastAPI does it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi import params
from fastapi._compat import ModelField
from fastapi.dependencies.utils import get_dependant, request_body_to_args
from pydantic import BaseModel, TypeAdapter, create_model
from starlette.datastructures import FormData

from ..exceptions import ConfigurationError


class FormFields:
    """The ``Form()`` parameters of a function; FastAPI must not see them, since it would read the body for them.

    Args:
        owner: Who declares them, for error messages.
        signature: All parameters of the function.

    Attributes:
        rest: The other parameters.

    Raises:
        ConfigurationError: There are other parameters that want the body.
    """

    def __init__(self, owner: str, signature: inspect.Signature) -> None:
        form = [parameter for parameter in signature.parameters.values() if _is_form(parameter)]
        self.rest = signature.replace(parameters=[item for item in signature.parameters.values() if item not in form])
        _refuse_body(owner, self.rest)
        self._fields = _fields_of(inspect.Signature([item.replace(kind=item.KEYWORD_ONLY) for item in form]))

    def __bool__(self) -> bool:
        return bool(self._fields)

    async def read(self, form: FormData) -> tuple[dict[str, Any], list[Any]]:
        """Take the values out of a form.

        Returns:
            The values by parameter, and the errors, in the form of FastAPI's 422.
        """
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for field in self._fields:
            found, wrong = await request_body_to_args([field], form, embed_body_fields=not _is_model(field))
            values.update(found)
            errors += wrong
        return values, errors

    def schema(self) -> dict[str, Any]:
        """Describe the fields: an object with its ``$defs``."""
        merged: dict[str, Any] = {"properties": {}, "required": [], "$defs": {}}
        infos = [(field.name, field.field_info) for field in self._fields if not _is_model(field)]
        definitions: dict[str, Any] = {name: (info.annotation, info) for name, info in infos}
        models = [field.field_info.annotation for field in self._fields if _is_model(field)]
        for model in [*models, create_model("Form", **definitions)]:
            found = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
            merged["properties"].update(found.get("properties", {}))
            merged["required"] += found.get("required", [])
            merged["$defs"].update(found.get("$defs", {}))
        return merged


def _fields_of(signature: inspect.Signature) -> list[ModelField]:
    def form() -> None: ...

    form.__signature__ = signature  # type: ignore[attr-defined]
    fields: list[ModelField] = get_dependant(path="", call=form).body_params
    return fields


def _refuse_body(owner: str, signature: inspect.Signature) -> None:
    names = [parameter.name for parameter in signature.parameters.values() if _is_body(parameter)]
    if names:
        raise ConfigurationError(
            f"{owner}: the body of the request is the upload, so {' and '.join(names)} must come from the query, "
            "the path, the headers or, with Form(), from a field of the multipart form"
        )
    for parameter in signature.parameters.values():
        dependency = _dependency(parameter)
        if dependency is not None and _reads_body(dependency):
            raise ConfigurationError(
                f"{owner}: {parameter.name} is a dependency for which FastAPI would read the body, which is the "
                "upload; declare its Form() parameters in the task or in the endpoint"
            )


def _reads_body(dependency: Callable[..., Any]) -> bool:
    pending = [get_dependant(path="", call=dependency)]
    while pending:
        dependant = pending.pop()
        if dependant.body_params:
            return True
        pending += dependant.dependencies
    return False


def _parts_of(parameter: inspect.Parameter) -> tuple[Any, list[Any]]:
    annotation = parameter.annotation
    kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    return kind, [*metadata, parameter.default]


def _source(parameter: inspect.Parameter) -> Any:
    _, metadata = _parts_of(parameter)
    known = [item for item in metadata if isinstance(item, params.Param | params.Body | params.Depends)]
    return known[-1] if known else None


def _is_form(parameter: inspect.Parameter) -> bool:
    source = _source(parameter)
    return isinstance(source, params.Form) and not isinstance(source, params.File)


def _is_body(parameter: inspect.Parameter) -> bool:
    source = _source(parameter)
    if source is not None:
        return isinstance(source, params.Body)
    kind, _ = _parts_of(parameter)
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _dependency(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    source = _source(parameter)
    if not isinstance(source, params.Depends):
        return None
    kind, _ = _parts_of(parameter)
    found: Callable[..., Any] | None = source.dependency or (kind if callable(kind) else None)
    return found


def _is_model(field: ModelField) -> bool:
    kind = field.field_info.annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)
