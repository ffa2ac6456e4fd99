"""Fields of tasks in shared memory: here they are a part of `BaseTask`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from ..replaced import names_of

    __getattr__ = names_of(__name__)
