"""The logger of the package.

Attach handlers or forward records as with any logger, for example to send errors to Sentry::

    from fastapi_aqueduct.logger import log

    log.addHandler(EventHandler(level=logging.ERROR))
"""

from __future__ import annotations

import logging

LOGGER_NAME = "fastapi_aqueduct"

log = logging.getLogger(LOGGER_NAME)
log.addHandler(logging.NullHandler())


def replace_logger(logger: logging.Logger) -> None:
    """Make the package's logger write where another logger writes.

    Args:
        logger: Its level, handlers, parent and propagation are taken over. The object ``log`` stays the same,
            so modules that imported it keep working.
    """
    log.setLevel(logger.level)  # unlike the attribute, forgets what was enabled before
    log.parent = logger.parent
    log.propagate = logger.propagate
    log.handlers = logger.handlers
    log.disabled = logger.disabled
