"""The cluster of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .nodes import Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
