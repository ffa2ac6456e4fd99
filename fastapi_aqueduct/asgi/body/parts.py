"""The uploads that a task takes from a request, and those that have come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from starlette.datastructures import FormData, UploadFile

from ...params import UploadInfo
from ..errors import UnsupportedBody
from .limits import is_acceptable

_TYPE_OF_CURL = "application/x-www-form-urlencoded"


class Hash(Protocol):
    """Takes a digest, as the objects of ``hashlib`` do."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes in hexadecimal."""


class UploadPart(NamedTuple):
    """One upload: a part of a form, several parts of the same name, or the whole body.

    Attributes:
        name: Name of the constructor's parameter, and of the parts.
        is_required: Whether it must come.
        is_list: Whether several files may come under the name.
        media_types: The types it may have; empty: as the endpoint says.
        max_size: The most bytes that one file may have; None: as many as the body.
        is_raw: Whether it is the whole body, also if that is a form.
        is_hashed: Whether the SHA-256 digest of each file is taken.
    """

    name: str
    is_required: bool
    is_list: bool
    media_types: tuple[str, ...]
    max_size: int | None
    is_raw: bool = False
    is_hashed: bool = False

    def new_hash(self) -> Hash | None:
        """Return what takes the digest of one file; None if none is wanted."""
        return hashlib.sha256() if self.is_hashed else None

    def check_type(self, content_type: str | None, default: tuple[str, ...]) -> None:
        """Refuse a file of a type that is not accepted.

        Args:
            content_type: Of the file; None when the client does not say.
            default: The types that the endpoint accepts.

        Raises:
            UnsupportedBody: The type is not accepted.
        """
        media_types = self.media_types or default
        if is_acceptable(content_type, media_types):
            return
        wanted = ", ".join(media_types)
        text = f"The upload {self.name} must be of type {wanted}, not {content_type or 'an unknown one'}."
        if content_type is not None and content_type.lower().startswith(_TYPE_OF_CURL):
            example = media_types[0].replace("*", "...")
            text += f" That is what curl --data-binary says by itself; add -H 'Content-Type: {example}'."
        raise UnsupportedBody(text, {"Accept": wanted})


@dataclass
class Received:
    """What has come in the body of a request.

    Attributes:
        uploads: Read-only views on shared memory by the names of the uploads, in the order in which they came; the
            memory of one is free again when its last view is gone.
        infos: What the client said about them.
        nameless: Names of uploads for which a part came that has content and no file name.
        fields: The other parts of a form that are no files.
    """

    uploads: dict[str, list[memoryview]] = field(default_factory=dict)
    infos: dict[str, list[UploadInfo]] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)
    fields: list[tuple[str, str | UploadFile]] = field(default_factory=list)

    @property
    def form(self) -> FormData:
        """The fields in the form in which FastAPI validates them."""
        return FormData(self.fields)

    def add(
        self, name: str, view: memoryview, filename: str | None, content_type: str | None, hash: Hash | None
    ) -> None:
        """Add an upload that is complete."""
        sha256 = None if hash is None else hash.hexdigest()
        self.uploads.setdefault(name, []).append(view)
        self.infos.setdefault(name, []).append(UploadInfo(filename, content_type, len(view), sha256))
