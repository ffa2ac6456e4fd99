"""Tests of applications with functions, without processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.testing import inline, stub

from .functions import answer, pid, repeat, resize, stars


async def test_a_function_runs_in_the_process_of_the_test() -> None:
    """With what its `load` has made, and in the batches that it would have."""
    async with inline(stars), inline(pid), inline(answer):
        assert await stars("four") == 4
        with pytest.raises(ConfigurationError, match="stars returned 0 results"):
            await stars("few")
        assert await pid() == os.getpid()
        assert await answer("four") == (4, os.getpid())


async def test_a_function_of_the_test_answers_in_its_place() -> None:
    """It has the arguments of the calls, and may be of any form."""

    async def resized(image: bytes, width: int = 64) -> dict[str, int]:
        return {"width": width}

    def repeated(times: int) -> Iterator[str]:
        yield from "xyz"[:times]

    async with stub(stars, lambda text: 5), stub(resize, resized), stub(repeat, repeated):
        assert await stars("") == 5
        assert await resize(b"", width=3) == {"width": 3}
        assert [item async for item in repeat.stream(2)] == ["x", "y"]
        assert await repeat(3) == ["x", "y", "z"]

    async def repeated_in_loop(times: int) -> AsyncIterator[str]:
        for letter in "xyz"[:times]:
            yield letter

    async with stub(repeat, repeated_in_loop):
        assert await repeat(2) == ["x", "y"]
