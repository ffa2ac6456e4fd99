"""A pool of connections: here each process has one."""

from __future__ import annotations

from ..replaced import explain_names

explain_names(__name__)
