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

    Only headers that no script can set in a browser count: ``Sec-Fetch-Site``, and ``Origin`` and ``Host`` without it.
    ``X-Forwarded-Host`` does not: a script of another site can set it where the CORS allows all headers.

    Browsers send ``Sec-Fetch-Site`` over HTTPS and to the own machine, and compare scheme, host and port of the
    address that they see, so a proxy may change ``Host``. It alone decides where it is there: an equal ``Origin`` does
    not make up for it, as it may be the page of the same host over HTTP, which others in the network can write. Without
    it, the host and port of ``Origin`` must be those of ``Host``; the scheme is not compared, since TLS may end at the
    proxy.

    Args:
        request: The request.

    Raises:
        HTTPException: It may be from another site.
    """
    if HEADER not in request.headers:
        raise HTTPException(403, f"A change needs the header {HEADER}, with any value.")
    site = request.headers.get("sec-fetch-site")
    if site is None and not _is_own(request.headers.get("origin", ""), request.headers.get("host", "")):
        raise HTTPException(
            403, "A change needs a header Origin with the host of this service. A proxy without TLS must pass on Host."
        )
    if site not in (None, "same-origin"):
        raise HTTPException(403, "A change is accepted from the status page only, and this one is from another page.")


def _is_own(origin: str, host: str) -> bool:
    try:
        scheme = urlsplit(origin).scheme
        place = _place(origin, scheme)
        return place is not None and place == _place(f"//{host}", scheme)
    except ValueError:  # such as a port that is no number
        return False


def _place(url: str, scheme: str) -> tuple[str, int] | None:
    """Return host and port of a URL; None if it has none, or is not of HTTP."""
    parts = urlsplit(url)
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.hostname, parts.port or _DEFAULT_PORTS[scheme]
