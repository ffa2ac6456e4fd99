"""Finds what uvicorn has for a request, where it works for every piece and could do with once."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive

from .bodyguard import GuardedReceive

_SERVERS = ("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl")


def cycle_of(receive: Receive) -> Any:
    """Return uvicorn's object for a request and its answer.

    Args:
        receive: Of the request.

    Returns:
        The object; None when another server is there, or a middleware that wraps ``receive``. The guard of a
            body, which wraps it too, is looked through.
    """
    cycle = getattr(receive, "__self__", None)
    if type(cycle).__module__ in _SERVERS:
        return cycle
    return cycle_of(cycle.source) if isinstance(cycle, GuardedReceive) else None


def transport_of(receive: Receive) -> asyncio.Transport | None:
    """Return the connection of a request, to close it whatever the client does.

    Args:
        receive: Of the request. What only counts bodies, such as a limit of FastAPI, is looked through.

    Returns:
        The connection; None when another server is there, or a middleware that hides it.
    """
    cycle = cycle_of(receive)
    while cycle is None:
        owner = getattr(receive, "__self__", None)
        inner = getattr(owner, "source" if isinstance(owner, GuardedReceive) else "receive", None)
        if inner is None or getattr(inner, "__self__", None) is owner:
            return None
        receive = inner
        cycle = cycle_of(receive)
    transport: asyncio.Transport = cycle.transport
    return transport
