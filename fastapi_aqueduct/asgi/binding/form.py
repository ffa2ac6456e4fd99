"""Fields of a form beside an upload, validated as FastAPI validates them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from fastapi import params
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant, request_body_to_args
from pydantic import BaseModel, TypeAdapter, create_model
from starlette.datastructures import FormData

from ...exceptions import ConfigurationError


class FormFields:
    """The ``Form()`` parameters of a function. They are hidden from FastAPI, which would read the body for them.

    Args:
        owner: Name of the function or class that declares them, for messages.
        signature: All parameters of the function.
        raw: Name of the upload that is the whole body; None if the body may be a form.

    Attributes:
        rest: The other parameters.

    Raises:
        ConfigurationError: FastAPI would read the body for another parameter, or the body cannot be a form.
    """

    def __init__(self, owner: str, signature: inspect.Signature, raw: str | None) -> None:
        form = [parameter for parameter in signature.parameters.values() if _is_form(parameter)]
        if raw is not None and form:
            names = " and ".join(parameter.name for parameter in form)
            raise ConfigurationError(
                f"{owner}: {raw} is a RawUpload, which is the whole body and is not taken apart, so {names} cannot be "
                "fields of a form: take them from the query, the path or the headers, or make it an Upload"
            )
        self.rest = signature.replace(parameters=[item for item in signature.parameters.values() if item not in form])
        _refuse_body(owner, self.rest)
        self._fields: list[Any] = _dependant_of(form).body_params

    def __bool__(self) -> bool:
        return bool(self._fields)

    @property
    def names(self) -> list[str]:
        """Names of the parameters."""
        return [field.name for field in self._fields]

    async def read(self, form: FormData) -> tuple[dict[str, Any], list[Any]]:
        """Read and validate the values of a form.

        Args:
            form: The fields of the form.

        Returns:
            The values by parameter, and the errors, in the format of FastAPI's 422.
        """
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for field in self._fields:
            found, wrong = await request_body_to_args([field], form, embed_body_fields=not _is_model(field))
            values.update(found)
            errors += wrong
        return values, errors

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the fields: an object with its ``$defs``."""
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


def _dependant_of(parameters: Iterable[inspect.Parameter]) -> Dependant:
    """Return FastAPI's own description of parameters."""

    def function() -> None: ...

    keyword = inspect.Parameter.KEYWORD_ONLY
    function.__signature__ = inspect.Signature([item.replace(kind=keyword) for item in parameters])  # type: ignore[attr-defined]
    return get_dependant(path="", call=function)


def _refuse_body(owner: str, signature: inspect.Signature) -> None:
    wanted = _dependant_of(signature.parameters.values())
    files = [field.name for field in wanted.body_params if isinstance(field.field_info, params.File)]
    if files:
        raise ConfigurationError(
            f"{owner}: FastAPI would read the body, which is the upload, for {' and '.join(files)}; declare it as "
            "Upload in the task"
        )
    names = [field.name for field in wanted.body_params]
    if names:
        raise ConfigurationError(
            f"{owner}: the body of the request is the upload, so {' and '.join(names)} must come from the query, "
            "the path, the headers or, with Form(), from a field of the multipart form; what a dataclass sets later "
            "is declared with field(init=False)"
        )
    for dependency in wanted.dependencies:
        if _reads_body(dependency):
            raise ConfigurationError(
                f"{owner}: {dependency.name} is a dependency for which FastAPI would read the body, which is the "
                "upload; declare its Form() parameters in the task or in the endpoint"
            )


def _reads_body(dependant: Dependant) -> bool:
    return bool(dependant.body_params) or any(map(_reads_body, dependant.dependencies))


def _source(parameter: inspect.Parameter) -> Any:
    metadata = get_args(parameter.annotation)[1:] if get_origin(parameter.annotation) is Annotated else ()
    known = (params.Param, params.Body, params.Depends)
    return next((item for item in reversed([*metadata, parameter.default]) if isinstance(item, known)), None)


def _is_form(parameter: inspect.Parameter) -> bool:
    source = _source(parameter)
    return isinstance(source, params.Form) and not isinstance(source, params.File)


def _is_model(field: Any) -> bool:
    kind = field.field_info.annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)
