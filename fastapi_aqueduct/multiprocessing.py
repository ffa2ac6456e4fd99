"""The process that `SocketFlow.preload` returns, under the name that it has in the package aqueduct."""

from __future__ import annotations

from .replaced import explain_names
from .sockets.processes import ProcessContext as ProcessContext

explain_names(__name__)
