"""Refuses changes that the page of another site asks for in the browser of an operator (CSRF)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

HEADER = "X-Aqueduct-Action"
"""A request with it cannot come from a form, and from a script of another site only if the application allows it."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origin(request: Request) -> None:
    """Check that a request comes from the page, or from a client that is no browser.

    A browser tells the origin of a POST itself. Its host and port must be those of ``Host``, or of ``X-Forwarded-Host``
    behind a proxy that changes ``Host``: a page of another site can set neither. The scheme is not compared, since TLS
    may end at the proxy.

    Args:
        request: The request.

    Raises:
        HTTPException: It may be from another site.
    """
    if HEADER not in request.headers:
        raise HTTPException(403, f"A change needs the header {HEADER}, with any value.")
    origin = request.headers.get("origin", "")
    scheme = urlsplit(origin).scheme
    place = _place(origin, scheme) if scheme in _DEFAULT_PORTS else None
    forwarded = request.headers.get("x-forwarded-host", "").partition(",")[0]
    known = [f"//{host.strip()}" for host in (request.headers.get("host", ""), forwarded) if host.strip()]
    if place is None or place not in [_place(host, scheme) for host in known]:
        raise HTTPException(
            403,
            "A change needs a header Origin with the host of this service. Behind a proxy, let it pass on Host or set "
            "X-Forwarded-Host.",
        )


def _place(url: str, scheme: str) -> tuple[str, int] | None:
    """Return host and port of a URL; None if it has none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or _DEFAULT_PORTS[scheme]) if parts.hostname else None
    except ValueError:  # such as a port that is no number
        return None
