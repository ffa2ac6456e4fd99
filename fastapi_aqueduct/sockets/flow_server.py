"""The server of a flow: here it is a pipeline process."""

from __future__ import annotations

from ..replaced import explain_names

explain_names(__name__)
