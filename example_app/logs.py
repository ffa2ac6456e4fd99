"""Shows the log records of the example in the output of the server, those of workers too."""

import logging.config

from example_app.request_id import request_id


class AddRequestId(logging.Filter):
    """Gives each record of a request the attribute ``request_id``; a record of a worker already has it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attribute."""
        record.request_id = request_id.get("-")
        return True


def configure_logs() -> None:
    """Configure the root logger. The loggers of uvicorn have handlers of their own, which do not change."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                # the name of a worker process is that of its flow and its step
                "line": {"format": "%(levelname)s:     %(message)s [%(request_id)s %(processName)s %(process)d]"},
            },
            "filters": {"request id": {"()": AddRequestId}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request id"]},
            },
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
