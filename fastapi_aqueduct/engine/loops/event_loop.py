"""Whether an event loop runs here, and which ones a flow can be used in."""

from __future__ import annotations

import asyncio

from ...exceptions import ConfigurationError


def in_event_loop() -> bool:
    """Tell whether an event loop of asyncio runs in the present thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def check_asyncio() -> None:
    """Refuse another event loop than one of asyncio, such as trio's.

    Raises:
        ConfigurationError: None of asyncio runs in this thread.
    """
    if not in_event_loop():
        raise ConfigurationError(
            "flows need asyncio, and none of its event loops runs here; run the server with asyncio or uvloop "
            "(hypercorn: --worker-class asyncio), and tests with anyio's backend asyncio"
        )
