"""This process's end of a channel, under each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
import uvloop

from fastapi_aqueduct.engine.wire.channel import Channel, make_pair
from fastapi_aqueduct.engine.wire.frames import Kind, ProtocolError, pack

from ..support import DEADLINE


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_other_end_sees_the_close_of_one_that_has_not_read_all(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """The process goes on, so nothing else tells of the end of the connection."""
    run(_close_unread())


async def _close_unread() -> None:
    loop = asyncio.get_running_loop()
    frames: list[tuple[Kind, bytes]] = []
    has_ended = asyncio.Event()
    here, there = make_pair()
    with closing(Channel(here, frames.extend, has_ended.set, _fail)) as channel:
        channel.attach(loop)
        channel.send(pack(Kind.STATUS, b"unread"))
        other = Channel(there, _ignore, has_ended.set, _fail)
        other.send(pack(Kind.ANSWERS, b"the last"))
        other.close()
        async with asyncio.timeout(DEADLINE):
            await has_ended.wait()
        assert frames == [(Kind.ANSWERS, b"the last")]


def _ignore(frames: list[tuple[Kind, bytes]]) -> None:
    """Handle no frames."""


def _fail(error: ProtocolError) -> None:
    raise error
