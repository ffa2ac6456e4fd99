"""The server of a flow: here it is a pipeline process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from ..replaced import names_of

    __getattr__ = names_of(__name__)
