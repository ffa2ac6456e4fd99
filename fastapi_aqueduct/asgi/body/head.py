"""What the headers of a request say about its body, judged before any of it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from ..errors import UnsupportedBody, missing_upload
from .disposition import filename_of
from .limits import BodyRules, announced_size, check_size
from .multipart import boundary_of
from .parts import UploadPart


class BodyHead(NamedTuple):
    """The headers that describe a body, which is not refused for them.

    Attributes:
        announced: The Content-Length; None when there is none.
        max_size: The most bytes that the body may have, compressed or not.
        is_compressed: Whether it comes with gzip.
        boundary: What separates the parts of a form; None for a body that is one upload.
        content_type: The Content-Type; None when there is none.
        filename: Name of a body that is one upload, as the client gives it; None without one.
    """

    announced: int | None
    max_size: int
    is_compressed: bool
    boundary: bytes | None
    content_type: str | None
    filename: str | None

    @property
    def size(self) -> int | None:
        """How many bytes the body has after decompression; None when that is not known."""
        return None if self.is_compressed else self.announced


def judge_head(request: Request, parts: Mapping[str, UploadPart], rules: BodyRules) -> BodyHead:
    """Read the headers of a request.

    Args:
        request: The request.
        parts: The uploads that a task takes, by name.
        rules: What the endpoint accepts.

    Raises:
        BodyError: The body cannot be used.
        RequestValidationError: There is no body, and a task needs one.
    """
    headers = request.headers
    is_compressed = _is_compressed(headers.get("content-encoding", "identity"), rules.accept_gzip)
    announced, max_size = announced_size(request.scope), rules.max_size(request.scope)
    check_size(announced, max_size)
    is_empty = announced == 0 and not is_compressed
    required = [part.name for part in parts.values() if part.is_required]
    if is_empty and required:
        raise RequestValidationError([missing_upload(name) for name in required])
    content_type = headers.get("content-type")
    is_raw = any(part.is_raw for part in parts.values())
    boundary = None if is_raw else boundary_of(content_type or "")
    if boundary is not None or is_empty:
        return BodyHead(announced, max_size, is_compressed, boundary, content_type, None)
    if len(parts) > 1:
        raise UnsupportedBody(f"{' and '.join(parts)} must come as parts of a multipart/form-data body.")
    (part,) = parts.values()
    part.check_type(content_type, rules.media_types)
    if part.max_size is not None:
        max_size = min(max_size, part.max_size)
        check_size(announced, max_size)
    filename = filename_of(headers.get("content-disposition"))
    return BodyHead(announced, max_size, is_compressed, None, content_type, filename)


def _is_compressed(coding: str, accept_gzip: bool) -> bool:
    name = coding.strip(" \t").lower()
    if name in ("identity", ""):
        return False
    if name not in ("gzip", "x-gzip") or not accept_gzip:
        known = "gzip" if accept_gzip else "identity"
        raise UnsupportedBody(f"The Content-Encoding may be {known} only.", {"Accept-Encoding": known})
    return True
