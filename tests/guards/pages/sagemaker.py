"""Runs the tests of the page, and its service with batches."""

import asyncio
import os
from typing import cast

import pytest
from main import app

from fastapi_aqueduct import Aqueduct
from fastapi_aqueduct.testing import client, inline


async def main() -> None:
    aqueduct = cast(Aqueduct, app.state.aqueduct)
    with inline(aqueduct.flows[0]):
        async with client(app) as http:
            replies = await asyncio.gather(*(http.post("/invocations", content=str(number)) for number in range(8)))
            assert [reply.text for reply in replies] == [f"{2.0 * number}" for number in range(8)]
            assert (await http.get("/execution-parameters")).json()["MaxConcurrentTransforms"] == 16


if __name__ == "__main__":
    asyncio.run(main())
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert pytest.main(["-q", "-p", "no:cacheprovider", "test_inference.py"]) == pytest.ExitCode.OK
