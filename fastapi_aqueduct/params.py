"""Annotations of the parameters of a task's constructor, beside FastAPI's own ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple, TypeAlias

from .exceptions import ConfigurationError


class UploadMarker:
    """Marks a parameter that gets the body of a request; see `Upload`."""

    def __repr__(self) -> str:
        return "Upload"


Upload: TypeAlias = Annotated[memoryview, UploadMarker()]
"""The body of a request in shared memory: a read-only `memoryview` of bytes (``len``, slices, ``numpy.frombuffer``).

A parameter of this type in the constructor of a task gets the body of the request, or a part of a multipart form."""


class UploadInfo(NamedTuple):
    """What a client says about an upload.

    A task gets it in a parameter of its constructor that is named after the upload: ``image_info: UploadInfo`` beside
    ``image: Upload``.

    Attributes:
        filename: Name of the file as the client sent it, None if it sent none. Never use it as a path.
        content_type: Media type with its parameters as the client sent it, None if it sent none.
        size: Size of the upload in bytes.
    """

    filename: str | None
    content_type: str | None
    size: int


class FormField:
    """Marks a parameter that comes from a field of the form beside an upload: ``title: Annotated[str, FormField()]``.

    Means the same as FastAPI's ``Form()``, without an import of FastAPI into the workers.
    """

    def __repr__(self) -> str:
        return "FormField()"


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
