"""Which event loops a flow can be used in."""

from __future__ import annotations

import asyncio

from ..exceptions import ConfigurationError


def check_asyncio() -> None:
    """Refuse another event loop than one of asyncio, such as trio's.

    Raises:
        ConfigurationError: None of asyncio runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "flows need asyncio, and none of its event loops runs here; run the server with asyncio or uvloop "
            "(hypercorn: --worker-class asyncio), and tests with anyio's backend asyncio"
        ) from None
