"""What is different under gunicorn's own ASGI worker (``gunicorn --worker-class asgi``)."""

from __future__ import annotations

import sys


def is_server() -> bool:
    """Return whether this process is such a worker.

    It ends at once on SIGINT, without the lifespan. And (27.0) when a ``receive`` of a request was cancelled, the next
    one says ``http.disconnect`` though the client is there, so only the last listener of a request may listen.
    """
    return "gunicorn.workers.gasgi" in sys.modules
