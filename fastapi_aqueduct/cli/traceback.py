"""Tracebacks as text, without the frames of the package."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path

from ..engine.wire.exception_pickle import chain_of
from ..exceptions import WorkerTraceback

_OWN = tuple(f'  File "{place}' for place in (Path(__file__).parents[1], Path(importlib.__file__).parent, "<frozen "))
"""How the lines of frames begin that no user has written: of the package, and of imports."""


def traceback_text(exc: BaseException) -> str:
    """Return the traceback of an exception where it was raised: in a worker, if it comes from one.

    Empty if it has frames of the package only: then its text says all.
    """
    for found in chain_of(exc):
        if isinstance(found, WorkerTraceback):
            return without_package(found.text.strip())
    return without_package("".join(traceback.format_exception(exc)).strip())


def cause_text(exc: BaseException) -> str:
    """Return the traceback of what an exception comes from; empty as for `traceback_text`, and if it has no cause."""
    return "" if exc.__cause__ is None else traceback_text(exc.__cause__)


def without_package(text: str) -> str:
    """Leave out the frames of the package and of imports; return nothing if it has no others.

    Args:
        text: A traceback. A frame is a line with the file, and those that follow to the next one.
    """
    kept, is_own, has_frames = [], False, False
    for line in text.splitlines():
        if line.startswith('  File "'):
            is_own = line.startswith(_OWN)
            has_frames = has_frames or not is_own
        elif not line.startswith("    "):
            is_own = False
        if not is_own:
            kept.append(line)
    return "\n".join(kept) if has_frames else ""
