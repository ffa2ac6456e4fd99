"""The parameters of a task's constructor, as parameters of a request."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, ForwardRef, TypeVar, Union, get_args, get_origin

from fastapi import params
from pydantic import Field
from pydantic.fields import FieldInfo
from starlette.datastructures import UploadFile

from ...exceptions import ConfigurationError
from ...flow import FlowStream
from ...params import (
    Body,
    Cookie,
    Form,
    Header,
    PartLimits,
    Path,
    Query,
    RequestParameter,
    Sha256,
    UploadInfo,
    UploadMarker,
)
from ...task import BaseTask, frozen_task
from ..body.limits import checked_media_types
from ..body.parts import UploadPart

_WITH_UNKNOWN_NAMES: dict[str, Any] = {}
"""Arguments of ``inspect.signature`` that allow them: from Python 3.14 on, any annotation may have them."""
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _WITH_UNKNOWN_NAMES["annotation_format"] = Format.FORWARDREF


def typed_signature(function: Any, local_names: Mapping[str, Any] | None = None) -> inspect.Signature:
    """Return the signature of a function with its annotations evaluated, as far as they can be.

    As in FastAPI, an annotation with an unknown name becomes a ``ForwardRef``: it may be for the type checker only.

    Args:
        function: The function.
        local_names: The local names around a function that is defined inside another one.
    """
    try:
        return inspect.signature(function, eval_str=True, locals=local_names)
    except NameError:
        signature = inspect.signature(function, **_WITH_UNKNOWN_NAMES)
    names = getattr(inspect.unwrap(function), "__globals__", {})
    parameters = [
        item.replace(annotation=_evaluated(item.annotation, names, local_names))
        for item in signature.parameters.values()
    ]
    found = _evaluated(signature.return_annotation, names, local_names)
    return signature.replace(parameters=parameters, return_annotation=found)


def _evaluated(annotation: Any, names: Mapping[str, Any], local_names: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names), local_names)
    except NameError:
        return ForwardRef(annotation)


def task_type_of(annotation: Any) -> Any:
    """Return the type of the task that an annotation names, such as a class or ``Box[int]``; None if it names none."""
    return _named_type(annotation, BaseTask)


def streams_in(signature: inspect.Signature) -> list[str]:
    """Return the names of the parameters that get the stream of a task."""
    parameters = signature.parameters.values()
    return [item.name for item in parameters if _named_type(item.annotation, FlowStream) is not None]


def _named_type(annotation: Any, base: type) -> Any:
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        if any(isinstance(item, params.Depends) for item in metadata):
            return None
    kind = get_origin(annotation) or annotation
    return annotation if isinstance(kind, type) and issubclass(kind, base) else None


def constructor_parameters(task_type: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a task's constructor in the form that FastAPI understands.

    Args:
        task_type: The class of the task; a generic one with its arguments.

    Raises:
        ConfigurationError: Tasks of this class cannot be made from requests.
    """
    cls: type[BaseTask] = get_origin(task_type) or task_type
    if getattr(getattr(cls, "__dataclass_params__", None), "frozen", False):
        raise ConfigurationError(frozen_task(cls.__qualname__))
    # Not the signature of the class, which is that of BaseTask.__new__.
    constructor = typed_signature(cls.__init__)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = {
        item.name: translated(cls.__qualname__, _resolved(task_type, cls, item))
        for item in list(constructor.parameters.values())[1:]
        if item.kind not in variable
    }
    for name, item in found.items():
        if _mentions(item.annotation, UploadFile):
            raise ConfigurationError(
                f"{cls.__qualname__}: {name} is an UploadFile, whose temporary file no worker can read; use Upload, "
                "which is streamed into shared memory"
            )
    return found


def _resolved(task_type: Any, cls: type[BaseTask], parameter: inspect.Parameter) -> inspect.Parameter:
    """Evaluate the annotation in its own module, and replace the type variables of a generic class."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    field = vars(owner).get("__dataclass_fields__", {}).get(parameter.name)
    annotation, default = parameter.annotation, parameter.default
    if field is not None:  # the constructor of a dataclass also has the fields of its bases
        owner = _declaring(owner, field)
        if isinstance(annotation, ForwardRef):
            annotation = _evaluated(annotation.__forward_arg__, vars(sys.modules[owner.__module__]))
    if isinstance(annotation, dataclasses.InitVar):
        annotation = annotation.type
    annotation = _substituted(annotation, _type_arguments(task_type, owner))
    if field is not None and field.default_factory is not dataclasses.MISSING:
        annotation, default = Annotated[annotation, Field(default_factory=field.default_factory)], parameter.empty
    return parameter.replace(annotation=annotation, default=default)


def _declaring(cls: type, field: dataclasses.Field[Any]) -> type:
    """Return the class in which a field of a dataclass is written: classes derived from it share the object."""
    bases = [base for base in cls.__mro__ if vars(base).get("__dataclass_fields__", {}).get(field.name) is field]
    return bases[-1]


def _type_arguments(task_type: Any, owner: type) -> dict[Any, Any]:
    """Return the values of the type variables of a class, in a task that inherits from it."""
    cls = get_origin(task_type) or task_type
    known = dict(zip(getattr(cls, "__parameters__", ()), get_args(task_type), strict=False))
    if cls is owner:
        return known
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        if issubclass(get_origin(base) or base, owner):
            return _type_arguments(_substituted(base, known), owner)
    return {}


def _substituted(annotation: Any, known: dict[Any, Any]) -> Any:
    if isinstance(annotation, TypeVar):
        return known.get(annotation, annotation)
    variables = () if isinstance(annotation, type) else getattr(annotation, "__parameters__", ())
    return annotation[tuple(known.get(item, item) for item in variables)] if variables else annotation


_FASTAPI: dict[type[RequestParameter], Callable[..., FieldInfo]] = {
    Body: params.Body,
    Cookie: params.Cookie,
    Form: params.Form,
    Header: params.Header,
    Path: params.Path,
    Query: params.Query,
}
"""FastAPI's own marks."""


def translated(owner: str, parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter with FastAPI's marks in place of this package's own.

    Args:
        owner: Name of the function or class that declares it, for messages.
        parameter: The parameter.

    Raises:
        ConfigurationError: The mark is the default of the parameter.
    """
    if isinstance(parameter.default, RequestParameter):
        mark = parameter.default
        raise ConfigurationError(
            f"{owner}: {parameter.name} has {mark!r} as its default, which code that calls it would get: write "
            f"`{parameter.name}: Annotated[..., {mark!r}]`, with the default after it"
        )
    annotation = parameter.annotation
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    if get_origin(annotation) is not Annotated:
        return parameter
    kind, *metadata = get_args(annotation)
    if not any(isinstance(item, RequestParameter) for item in metadata):
        return parameter
    known = [_FASTAPI[type(item)](**item.options) if isinstance(item, RequestParameter) else item for item in metadata]
    return parameter.replace(annotation=Annotated[kind, *known])


def upload_part(parameter: inspect.Parameter) -> UploadPart | None:
    """Return the upload that a parameter gets; None for a parameter that gets none.

    Raises:
        ConfigurationError: Its media types are invalid.
    """
    kinds, metadata = _split(parameter.annotation)
    marker = next((item for item in metadata if isinstance(item, UploadMarker)), None)
    if marker is None:
        return None
    limits = next((item for item in metadata if isinstance(item, PartLimits)), PartLimits())
    return UploadPart(
        parameter.name,
        not has_default(parameter),
        list in kinds,
        checked_media_types(limits.media_type),
        limits.max_size,
        marker.is_raw,
    )


def is_info(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter gets an `UploadInfo`."""
    return _mentions(parameter.annotation, UploadInfo)


def wants_sha256(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter asks for the digest of an upload."""
    return any(isinstance(item, Sha256) or item is Sha256 for item in _split(parameter.annotation)[1])


def takes_list(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter gets a list."""
    return list in _split(parameter.annotation)[0]


def has_default(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter may be omitted."""
    return parameter.default is not parameter.empty or default_factory(parameter) is not None


def default_factory(parameter: inspect.Parameter) -> Any:
    """Return the factory of a parameter's default; None if it has no factory."""
    if get_origin(parameter.annotation) is not Annotated:
        return None
    found = [item for item in get_args(parameter.annotation)[1:] if isinstance(item, FieldInfo)]
    return next((item.default_factory for item in found if item.default_factory is not None), None)


def _mentions(annotation: Any, kind: type) -> bool:
    return any(isinstance(item, type) and issubclass(item, kind) for item in _split(annotation)[0])


def _split(annotation: Any) -> tuple[list[Any], list[Any]]:
    """Return the types in an annotation and all metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        kind, *metadata = get_args(annotation)
        kinds, others = _split(kind)
        return kinds, [*metadata, *others]
    if origin not in (Union, UnionType, list):
        return [annotation], []
    kinds, metadata = [list] if origin is list else [], []
    for item in get_args(annotation):
        found, others = _split(item)
        kinds += found
        metadata += others
    return kinds, metadata
