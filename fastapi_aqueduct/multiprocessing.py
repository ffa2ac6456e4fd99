"""The process that `SocketFlow.preload` returns, under the name that it has in the package aqueduct."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sockets.processes import ProcessContext as ProcessContext

if not TYPE_CHECKING:
    from .replaced import names_of

    __getattr__ = names_of(__name__)
