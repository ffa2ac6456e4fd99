"""Runs what the page shows, on the processor: there is no GPU. What is not installed is left out."""

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from caches import cache
from onnx_devices import predict
from pipeline import Picture
from pipeline import flow as pictures
from resizing import halve
from tables import mean

from tests.guards.pages.models import write_model


async def check_caches() -> None:
    async with cache.flow:
        assert await cache() in ("/tmp/triton-0", "/tmp/triton-1")


async def check_threads() -> None:
    async with halve.flow:
        assert (await halve(np.zeros((8, 6), np.uint8))).shape == (4, 3)
    if find_spec("polars"):
        async with mean.flow:
            assert await mean([1.0, 2.0]) == 1.5


async def check_models() -> None:
    vector = np.arange(4, dtype=np.float32)
    async with predict.flow:
        assert np.array_equal(await predict(vector), 2 * vector)
    if find_spec("torch"):
        async with pictures:
            scores = (await pictures.process(Picture(vector))).scores
            assert scores is not None and scores.shape == (2,)


async def main() -> None:
    await asyncio.gather(check_caches(), check_threads(), check_models())


if __name__ == "__main__":
    write_model(Path("model.onnx"))
    asyncio.run(main())
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    assert pytest.main(["-q", "-p", "no:cacheprovider", "test_devices.py"]) == pytest.ExitCode.OK
