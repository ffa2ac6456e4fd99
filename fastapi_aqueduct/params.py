"""Annotations of the parameters of a task's constructor: where in a request they come from.

They mean what FastAPI's annotations of the same names mean, and this module imports neither FastAPI nor pydantic: a
module that workers import takes them from here, which saves each worker 26 MiB and half a second at its start.
FastAPI's own ones work as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, TypeAlias, TypedDict, Unpack

from .exceptions import ConfigurationError, InvalidArgument


class UploadMarker:
    """Marks a parameter that gets the body of a request; see `Upload` and `RawUpload`.

    Args:
        is_raw: Whether it gets the body as it is, also that of a form.

    Attributes:
        is_raw: As given.
    """

    def __init__(self, is_raw: bool = False) -> None:
        self.is_raw = is_raw

    def __repr__(self) -> str:
        return "RawUpload" if self.is_raw else "Upload"


Upload: TypeAlias = Annotated[memoryview, UploadMarker()]
"""The body of a request in shared memory: a read-only `memoryview` of bytes (``len``, slices, ``numpy.frombuffer``).

A parameter of this type in the constructor of a task gets the body of the request, or a part of a multipart form."""


RawUpload: TypeAlias = Annotated[memoryview, UploadMarker(is_raw=True)]
"""The body of a request in shared memory as it was sent, whatever its Content-Type: also a form is not taken apart.

For endpoints that read the body themselves, or pass it on. A task has one parameter of this type, which is the whole
body, so that it can have neither another upload nor fields of a form. Everything else is as for `Upload`: limits,
guards, ``media_type``, ``accept_gzip`` and `UploadInfo`, whose ``content_type`` has the boundary of a form."""


class UploadInfo(NamedTuple):
    """What a client says about an upload.

    A task gets it in a parameter of its constructor that is named after the upload: ``image_info: UploadInfo`` beside
    ``image: Upload``.

    Attributes:
        filename: Name of the file as the client sent it, None if it sent none. Never use it as a path.
        content_type: Media type with its parameters as the client sent it, None if it sent none.
        size: Size of the upload in bytes.
        sha256: The SHA-256 digest of the bytes that the task gets, in hexadecimal; None unless `Sha256` asks for it.
    """

    filename: str | None
    content_type: str | None
    size: int
    sha256: str | None = None


class TaskField:
    """Marks a parameter whose value is a field of the task: ``tenant: Annotated[str, Depends(key), TaskField()]``.

    For values that come from the server and that a client must not choose, such as a tenant or a ``priority``. In a
    function with `flow_endpoint` the field has the name of the parameter, and is set before the task is admitted and
    before the body is read. A parameter of this name in the constructor of the task gets the value too, and is none of
    the request.

        @app.post("/ocr")
        @flow_endpoint(flow)
        async def ocr(task: Scan, tenant: Annotated[str, Depends(tenant_of), TaskField()]) -> Lines: ...

    In the constructor of a task it marks a parameter that the task keeps under this name, so that ``priority`` counts
    before the body is read as well.
    """

    def __repr__(self) -> str:
        return "TaskField()"


class ParameterOptions(TypedDict, total=False):
    """What a value of a request must be, and how it is described in OpenAPI.

    Attributes:
        alias: Name in the request; default: the name of the parameter.
        title: Title.
        description: Description.
        gt: The number must be greater than this.
        ge: The number must be greater than this or equal.
        lt: The number must be less than this.
        le: The number must be less than this or equal.
        multiple_of: The number must be a multiple of this.
        allow_inf_nan: Whether the number may be infinite or no number.
        max_digits: The most digits of a ``Decimal``.
        decimal_places: The most decimal places of a ``Decimal``.
        min_length: The fewest characters or elements.
        max_length: The most characters or elements.
        pattern: A regular expression that the text must match.
        strict: Whether the value is not converted.
        discriminator: The field that tells the types of a union apart.
        examples: Examples.
        openapi_examples: Examples with names, summaries and descriptions, as in OpenAPI.
        deprecated: Whether the parameter is deprecated, or why.
        include_in_schema: Whether OpenAPI shows it.
        json_schema_extra: More of its JSON schema, or a function that changes the schema.
    """

    alias: str
    title: str
    description: str
    gt: float
    ge: float
    lt: float
    le: float
    multiple_of: float
    allow_inf_nan: bool
    max_digits: int
    decimal_places: int
    min_length: int
    max_length: int
    pattern: str | re.Pattern[str]
    strict: bool
    discriminator: str
    examples: Sequence[Any]
    openapi_examples: Mapping[str, Any]
    deprecated: bool | str
    include_in_schema: bool
    json_schema_extra: Mapping[str, Any] | Callable[[dict[str, Any]], None]


class RequestParameter:
    """Marks a parameter of a task's constructor that comes from a place in the request.

    A default is that of the parameter: ``limit: Annotated[int, Query(ge=1)] = 10``.

    Args:
        **options: As `ParameterOptions`.

    Attributes:
        options: As given.

    Raises:
        InvalidArgument: There is no option of this name.
    """

    def __init__(self, **options: Unpack[ParameterOptions]) -> None:
        known = ParameterOptions.__annotations__.keys()
        if unknown := ", ".join(sorted(options.keys() - known)):
            raise InvalidArgument(f"{type(self).__name__} has no option {unknown}; it has {', '.join(known)}")
        self.options: dict[str, Any] = {**options}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> NoReturn:
        """Refuse a schema; FastAPI asks for one where its own annotation is needed.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"fastapi_aqueduct.params.{cls.__name__} is for the constructor of a task and for functions with "
            f"@flow_endpoint: in other functions use `from fastapi import {cls.__name__}`"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


class Query(RequestParameter):
    """Marks a parameter from the query: ``limit: Annotated[int, Query(ge=1)] = 10``.

    A parameter without a mark comes from the query anyway, or from the path if the path has its name.

    Its options are `ParameterOptions`.
    """


class Path(RequestParameter):
    """Marks a parameter from the path: ``page: Annotated[int, Path(ge=1)]``.

    Its options are `ParameterOptions`.
    """


class Header(RequestParameter):
    """Marks a parameter from a header: ``x_token: Annotated[str, Header()]``.

    Args:
        convert_underscores: Whether ``x_token`` stands for the header ``x-token``.
        **options: As `ParameterOptions`.
    """

    def __init__(self, *, convert_underscores: bool = True, **options: Unpack[ParameterOptions]) -> None:
        super().__init__(**options)
        if not convert_underscores:
            self.options["convert_underscores"] = False


class Cookie(RequestParameter):
    """Marks a parameter from a cookie: ``session: Annotated[str | None, Cookie()] = None``.

    Its options are `ParameterOptions`.
    """


class Form(RequestParameter):
    """Marks a parameter from a field of a form, beside an upload or without one: ``title: Annotated[str, Form()]``.

    Its options are `ParameterOptions`.
    """


class Body(RequestParameter):
    """Marks a parameter that is the JSON body of the request: ``words: Annotated[list[str], Body()]``.

    Several such parameters are fields of one JSON object, as pydantic models are, which need no mark. An upload is the
    whole body, so they cannot stand beside one.

    Args:
        embed: Whether the body is an object of which the parameter is a field, also if there is only one parameter.
        media_type: Media type of the body in OpenAPI.
        **options: As `ParameterOptions`.
    """

    def __init__(
        self, *, embed: bool = False, media_type: str = "application/json", **options: Unpack[ParameterOptions]
    ) -> None:
        super().__init__(**options)
        if embed:
            self.options["embed"] = True
        if media_type != "application/json":
            self.options["media_type"] = media_type


FormField = Form
"""An older name of `Form`."""


class PartLimits:
    """Limits an upload: ``image: Annotated[Upload, PartLimits(media_type="image/*", max_size=5 << 20)]``.

    On ``list[Upload]`` the limits apply to each file.

    Args:
        media_type: Media type of the file, or several, such as ``"image/*"``; other types are refused with 415. None:
            the ``media_type`` of the endpoint.
        max_size: The most bytes of the file; a larger one is refused with 413. None: the limit of the body.

    Raises:
        ConfigurationError: ``max_size`` is below 1.
    """

    def __init__(self, *, media_type: str | Iterable[str] | None = None, max_size: int | None = None) -> None:
        if max_size is not None and max_size < 1:
            raise ConfigurationError(f"PartLimits needs max_size >= 1, got {max_size}")
        self.media_type = media_type
        self.max_size = max_size

    def __repr__(self) -> str:
        return f"PartLimits(media_type={self.media_type!r}, max_size={self.max_size!r})"


class Sha256:
    """Asks for the digest of an upload: ``image_info: Annotated[UploadInfo, Sha256()]``.

    `UploadInfo.sha256` is then the digest of the bytes that the task gets, so of a compressed body after it was
    decompressed. It is taken while the body streams, in the event loop: 0.5 to 1 ms for each MiB.
    """

    def __repr__(self) -> str:
        return "Sha256()"


def no_parameter(name: str) -> str:
    """Return the message of the error for a task as an ordinary parameter or response model of an endpoint.

    Args:
        name: Name of the class of the task.
    """
    return (
        f"{name} is a task, which FastAPI cannot read from a request by itself: put @flow_endpoint(flow) directly "
        f"above the function, below @app.post(...), or declare the parameter as `Annotated[{name}, FlowTask()]`; to "
        "respond with fields of a task, return a model that has them"
    )


NO_STREAM = (
    "a FlowStream is no ordinary parameter or response model of an endpoint: put @flow_endpoint(flow) directly above "
    "the function, below @app.post(...), or call flow.stream(task) in the function"
)
"""The message of the error for a stream that FastAPI would have to make."""
