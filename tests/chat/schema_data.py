"""Tells schemathesis which model there is."""

from __future__ import annotations

from typing import Any

import schemathesis

from .questions import MODEL


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Name the model in every request that names one."""
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = MODEL
    return body
