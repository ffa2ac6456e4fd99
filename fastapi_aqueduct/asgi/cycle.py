"""Finds what uvicorn has for a request, where it works for every piece and could do with once."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive

_SERVERS = ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")


def cycle_of(receive: Receive) -> Any:
    """Return uvicorn's object for a request and its answer.

    Args:
        receive: Of the request.

    Returns:
        The object; None when another server is there, or a middleware that wraps ``receive``.
    """
    cycle = getattr(receive, "__self__", None)
    return cycle if type(cycle).__module__ in _SERVERS else None
