"""Arrays in shared memory as objects, which the package aqueduct shows and this one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from ..replaced import names_of

    __getattr__ = names_of(__name__)
