"""Services that live longer than a test, and whose workers are replaced meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..conftest import nothing_left_behind


@pytest.fixture(scope="package", autouse=True)
def leaves_nothing_behind(kept_for_good: None) -> Iterator[None]:
    """Fail when a process, a descriptor or a file in shared memory is left when all tests are over."""
    with nothing_left_behind():
        yield
