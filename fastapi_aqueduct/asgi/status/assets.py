"""The files of the status page, and the headers of all its responses."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.responses import Response

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""If the text of an error were inserted as HTML, it could run no script. No script of the page inserts HTML."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def respond_with(name: str, media_type: str) -> Response:
    """Respond with a file of the page.

    Args:
        name: Its name, which may be any text of a request.
        media_type: Its type.

    Raises:
        HTTPException: There is no such file.
    """
    content = _contents().get(name)
    if content is None:
        raise HTTPException(404)
    return Response(content, 200, HEADERS, media_type)


@cache
def _contents() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (files(__package__) / "static").iterdir() if file.is_file()}
