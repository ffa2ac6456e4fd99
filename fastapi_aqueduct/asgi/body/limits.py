"""What an endpoint accepts as a body, and what the headers of a request say about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import Scope

from ...exceptions import ConfigurationError
from ..errors import BodyTooLarge, MalformedBody
from ..settings import UploadLimits, settings_of

DEFAULT_LIMITS = UploadLimits()


@dataclass(frozen=True, kw_only=True)
class BodyRules:
    """What one endpoint accepts.

    Attributes:
        wait: Returns the seconds that an upload may wait for shared memory.
        media_types: The accepted types, such as ``image/*``; empty: any.
        max_body_size: The most bytes of a body; None: the application's limit.
        limits: Limits of this endpoint; None: those of the application.
        accept_gzip: Whether a body may be compressed.
    """

    wait: Callable[[], float]
    media_types: tuple[str, ...] = ()
    max_body_size: int | None = None
    limits: UploadLimits | None = None
    accept_gzip: bool = False

    def limits_of(self, scope: Scope) -> UploadLimits:
        """Return the limits of a request: the endpoint's, else the application's, else the default ones."""
        if self.limits is not None:
            return self.limits
        settings = settings_of(scope)
        return settings.upload_limits if settings and settings.upload_limits else DEFAULT_LIMITS

    def max_size(self, scope: Scope) -> int:
        """Return how many bytes the body of a request may have; FastAPI's own ``max_body_size`` counts as well."""
        fastapi: int | None = scope.get("starlette.max_body_size")
        if self.max_body_size is None:
            return fastapi if fastapi is not None else self.limits_of(scope).max_body_size
        return self.max_body_size if fastapi is None else min(fastapi, self.max_body_size)


def checked_media_types(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the media types that an endpoint accepts, in lower case.

    Raises:
        ConfigurationError: A name is not a media type.
    """
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        kind, slash, subtype = name.partition("/")
        if not (kind and slash and subtype) or ";" in name or (kind == "*" and subtype != "*"):
            raise ConfigurationError(f"media_type {name!r} is not of the form image/png, image/* or */*")
    return tuple(name.lower() for name in names)


def is_acceptable(content_type: str | None, media_types: tuple[str, ...]) -> bool:
    """Return whether content of a type is accepted; every type is if none is named."""
    if not media_types:
        return True
    found = (content_type or "").partition(";")[0].strip(" \t").lower()
    kind, slash, _ = found.partition("/")
    return bool(slash) and any(name in (found, f"{kind}/*", "*/*") for name in media_types)


def content_length(scope: Scope) -> bytes | None:
    """Return the Content-Length of a request, undecoded; None when it has none."""
    # Not through request.headers, which makes an object and decodes every name before this one.
    for name, value in scope["headers"]:
        if name == b"content-length":
            found: bytes = value
            return found
    return None


def announced_size(scope: Scope) -> int | None:
    """Return how many bytes a request announces; None when it has no Content-Length.

    Raises:
        MalformedBody: The header is not a number.
    """
    value = content_length(scope)
    if value is None:
        return None
    if not value.isdigit():
        raise MalformedBody("The Content-Length is not a number.")
    digits = value.lstrip(b"0")
    # Python refuses to convert thousands of digits, and no body has a length of twenty.
    return int(digits or b"0") if len(digits) < 20 else sys.maxsize


def check_size(size: int | None, max_size: int) -> None:
    """Refuse a body that is too large.

    Args:
        size: Bytes that are announced or have come; None: that is not known.
        max_size: The most bytes that it may have.

    Raises:
        BodyTooLarge: It has more.
    """
    if size is not None and size > max_size:
        raise BodyTooLarge(f"The body may have at most {max_size} bytes.")
