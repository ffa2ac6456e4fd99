"""The forms of handlers that send items, and what reads them."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_aqueduct import FlowStep

from .. import handlers
from ..handlers import AsyncYielding, Awaiting, Emitting, Rounds, Yielding

STEPS = {
    "generator": lambda: FlowStep(Yielding(handlers.count_up), concurrency=32),
    "plain": lambda: FlowStep(Emitting()),
    "batch": lambda: FlowStep(Emitting(), batch_size=8),
    "rounds": lambda: FlowStep(Rounds(), batch_size=8),
    "continuous": lambda: FlowStep(Rounds(), batch_size=8, continuous=True),
    "coroutine": lambda: FlowStep(Awaiting()),
    "async generator": lambda: FlowStep(AsyncYielding(handlers.count_up_in_loop)),
}

every_form = pytest.mark.parametrize("form", STEPS)
in_rounds = pytest.mark.parametrize("form", ["rounds", "continuous"])


async def items_of(stream: Any) -> list[Any]:
    """Read a stream to its end."""
    return [item async for item in stream]


async def items_before(stream: Any) -> tuple[list[Any], BaseException | None]:
    """Collect items, and the error that ends them."""
    items = []
    try:
        async for item in stream:
            items.append(item)
    except Exception as exc:
        return items, exc
    return items, None
