"""What the parameters of a task's constructor may ask of a request, beside what FastAPI's own annotations say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple, TypeAlias

from .exceptions import ConfigurationError


class UploadMarker:
    """Marks a parameter that receives the body of a request; see `Upload`."""

    def __repr__(self) -> str:
        return "Upload"


Upload: TypeAlias = Annotated[memoryview, UploadMarker()]
"""The body of a request, already in shared memory: a read-only `memoryview` of bytes (``len``, slices,
``numpy.frombuffer``). A task whose constructor has a parameter of this type receives the body of its request."""


class UploadInfo(NamedTuple):
    """What the client said about an upload. A task receives it in a parameter of its constructor that is named after
    the upload: ``image_info: UploadInfo`` beside ``image: Upload``.

    Attributes:
        filename: The name of the file, as the client wrote it: never use it as a path. None when there was none.
        content_type: The media type, with its parameters, as the client wrote it; None when there was none.
        size: Bytes that came.
    """

    filename: str | None
    content_type: str | None
    size: int


class FormField:
    """Marks a parameter that comes from a field of the form beside an upload: ``title: Annotated[str, FormField()]``.

    The same as ``Form()`` of FastAPI, which a module that workers import had better not import.
    """

    def __repr__(self) -> str:
        return "FormField()"


class PartLimits:
    """Says more about an upload: ``image: Annotated[Upload, PartLimits(media_type="image/*", max_size=5 << 20)]``.

    On ``list[Upload]`` it counts for each of the files.

    Args:
        media_type: The type that the file may have, or several, such as ``"image/*"``; any other is refused with 415.
            None: as the endpoint says.
        max_size: The most bytes that the file may have, else 413. None: as many as the body.

    Raises:
        ConfigurationError: No file is so small.
    """

    def __init__(self, *, media_type: str | Iterable[str] | None = None, max_size: int | None = None) -> None:
        if max_size is not None and max_size < 1:
            raise ConfigurationError(f"PartLimits needs max_size >= 1, got {max_size}")
        self.media_type = media_type
        self.max_size = max_size

    def __repr__(self) -> str:
        return f"PartLimits(media_type={self.media_type!r}, max_size={self.max_size!r})"


def no_parameter(name: str) -> str:
    """Say what to write where a task is declared as an ordinary parameter or answer of an endpoint.

    Args:
        name: Name of the class of the task.
    """
    return (
        f"{name} is a task, which FastAPI cannot read from a request by itself: put @flow_endpoint(flow) directly "
        f"above the function, below @app.post(...), or declare the parameter as `Annotated[{name}, FlowTask()]`; to "
        "answer with what a task holds, return a model of its own"
    )
