"""The module of a flow, read before it is imported: a program that runs then would never end."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..migration.main_modules import starts_at_import
from ..migration.project import Project
from .finding import Code, Finding, Severity


def source_findings(target: str) -> Iterator[Finding]:
    """Find what runs or starts when the module of a flow is imported.

    Args:
        target: As for `find_flow`.
    """
    path = _source_of(target.partition(":")[0])
    if path is None:
        return
    for module in Project.read(path).modules:
        for call, what, _ in starts_at_import(module):
            yield Finding(
                Code.MAIN_GUARD,
                Severity.ERROR,
                f"{path}:{call.lineno}: {what}, and each worker imports it, as this command does: put it under "
                '`if __name__ == "__main__":`',
            )


def _source_of(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except Exception:  # of a package around it, whose import will say more
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
