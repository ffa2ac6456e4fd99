"""The logger of the package.

Without a configuration of logging, Python prints warnings and errors to stderr. Attach handlers as to any logger, for
example to send errors to Sentry:

    from fastapi_aqueduct.logger import log

    log.addHandler(EventHandler(level=logging.ERROR))
"""

from __future__ import annotations

import logging

from .replaced import explain_names

explain_names(__name__)

LOGGER_NAME = "fastapi_aqueduct"

# No NullHandler: a server that configures only its own loggers must still show that a worker died.
log = logging.getLogger(LOGGER_NAME)
"""The logger of the package."""


def replace_logger(logger: logging.Logger) -> None:
    """Make the package's logger write where another logger writes.

    Args:
        logger: Its level, handlers, parent and propagation are copied. The object ``log`` stays the same, so modules
            that imported it keep working.
    """
    log.setLevel(logger.level)  # unlike the attribute, forgets what was enabled before
    log.parent = logger.parent
    log.propagate = logger.propagate
    log.handlers = logger.handlers
    log.disabled = logger.disabled
