"""Limits of the system under which a flow refuses to start, and says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support import run_script

SCRIPT = """
    import asyncio
    import resource
    from fastapi_aqueduct import ConfigurationError, Flow, FlowStep
    from tests.handlers import Each, pass_on

    async def main():
        limit = getattr(resource, {limit!r})
        resource.setrlimit(limit, ({value}, resource.getrlimit(limit)[1]))
        try:
            async with Flow(FlowStep(Each(pass_on), nprocs={nprocs}), memory_limit={memory_limit}, name="ocr"):
                print("started")
        except ConfigurationError as exc:
            print(exc)

    if __name__ == "__main__":
        asyncio.run(main())
"""

GIB = 1 << 30


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("RLIMIT_NOFILE", 64, ["50 workers", "open files", "the limit is 64", "ulimit -n", "LimitNOFILE=", "--ulimit"]),
        ("RLIMIT_AS", 8 * GIB, ["bytes of address space", f"the limit is {8 * GIB}", "ulimit -v", "memory_limit"]),
        ("RLIMIT_FSIZE", GIB, ["a memory file of", f"the limit is {GIB}", "ulimit -f", "memory_limit"]),
    ],
)
def test_a_limit_that_is_too_low_is_told_with_what_to_change(
    tmp_path: Path, limit: str, value: int, words: list[str]
) -> None:
    settings = {"limit": limit, "value": value, "nprocs": 50, "memory_limit": GIB}
    said = run_script(tmp_path, SCRIPT.format(**settings))
    assert "flow ocr" in said
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("limit", "value"), [("RLIMIT_NOFILE", 128), ("RLIMIT_AS", 8 * GIB), ("RLIMIT_FSIZE", GIB)]
)
def test_a_flow_that_fits_the_limit_starts(tmp_path: Path, limit: str, value: int) -> None:
    settings = {"limit": limit, "value": value, "nprocs": 1, "memory_limit": 64 << 20}
    assert run_script(tmp_path, SCRIPT.format(**settings)) == "started\n"
