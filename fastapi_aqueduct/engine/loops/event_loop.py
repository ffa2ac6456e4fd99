"""Checks of the event loop of the present thread."""

from __future__ import annotations

import asyncio

from ...exceptions import BlockingCallError, ConfigurationError


def in_event_loop() -> bool:
    """Tell whether an asyncio event loop runs in the present thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def check_asyncio() -> None:
    """Refuse event loops of other libraries, such as trio.

    Raises:
        ConfigurationError: No asyncio event loop runs in this thread.
    """
    if not in_event_loop():
        raise ConfigurationError(
            "flows need asyncio, and none of its event loops runs here; run the server with asyncio or uvloop "
            "(hypercorn: --worker-class asyncio), and tests with anyio's backend asyncio"
        )


def check_may_block(flow: str) -> None:
    """Refuse a blocking call in a thread in which an event loop runs.

    Args:
        flow: Name of the flow.

    Raises:
        BlockingCallError: An event loop runs in this thread.
    """
    if in_event_loop():
        raise BlockingCallError(
            f"process_blocking() of flow {flow} would block the event loop that runs in this thread: use "
            "`await flow.process(task)`, or call it in another thread, such as that of a `def` endpoint"
        )
