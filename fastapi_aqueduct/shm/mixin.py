"""The fields of tasks in shared memory: here they are a part of `BaseTask`."""

from __future__ import annotations

from ..replaced import explain_names

explain_names(__name__)
