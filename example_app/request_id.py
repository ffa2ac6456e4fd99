"""The id of the request that is handled: the pipeline passes it to its workers.

Worker processes import this module, so it does not import a web framework.
"""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id")
"""Set by `RequestIds` for each request."""
