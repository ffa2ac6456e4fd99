"""The messages of the server: here they are those of a pipeline process."""

from __future__ import annotations

from ..replaced import explain_names

explain_names(__name__)
