"""How every ASGI application that is measured is served."""

from __future__ import annotations

from typing import Any

import uvicorn


def serve(app: Any, port: int) -> None:
    """Serve an application with what is fastest in uvicorn, in one process."""
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning")
