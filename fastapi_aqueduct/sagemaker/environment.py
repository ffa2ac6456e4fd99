"""The variables with which SageMaker, and its own containers, configure a service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..exceptions import ConfigurationError
from .accept import ANY

MEGABYTE = 1 << 20

LARGEST_PAYLOAD = 100
"""Megabytes of the largest request of a Batch Transform job."""


@dataclass(frozen=True)
class Environment:
    """What the environment says about a service.

    Attributes:
        model_dir: SM_MODEL_DIR, or ``model`` below SAGEMAKER_BASE_DIR: where the files of the model are.
        submit_dir: SAGEMAKER_SUBMIT_DIRECTORY: where modules are looked for; None: in ``code`` below the model.
        program: SAGEMAKER_PROGRAM: the module with the hooks; None: those of installed plug-ins.
        workers: SAGEMAKER_MODEL_SERVER_WORKERS: number of worker processes.
        timeout: SAGEMAKER_MODEL_SERVER_TIMEOUT: seconds in which a request must be answered.
        start_timeout: SAGEMAKER_STARTUP_TIMEOUT: seconds in which the model must be loaded; None: that of flows.
        accept: SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT: media types for a client that accepts any.
        max_body_size: SAGEMAKER_MAX_PAYLOAD_IN_MB: the most bytes of a body.
        port: SAGEMAKER_BIND_TO_PORT: where the command listens.
        log_level: SAGEMAKER_CONTAINER_LOG_LEVEL: the level of the command's log.
    """

    model_dir: str
    submit_dir: str | None
    program: str | None
    workers: int
    timeout: float
    start_timeout: float | None
    accept: str
    max_body_size: int
    port: int
    log_level: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables.

        Args:
            environ: The environment. Empty values do not count.

        Raises:
            ConfigurationError: A value is no number, or the variables ask for a multi-model endpoint.
        """
        given = {name: value for name, value in environ.items() if value.strip()}
        if given.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
            raise ConfigurationError(
                "SAGEMAKER_MULTI_MODEL=true asks for a multi-model endpoint, which loads models while it serves; a "
                "service here has one model: deploy an endpoint for each"
            )
        model_dir = given.get("SM_MODEL_DIR") or os.path.join(given.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "model")
        timeout = _number(given, "SAGEMAKER_MODEL_SERVER_TIMEOUT", 60)
        start_timeout = _number(given, "SAGEMAKER_STARTUP_TIMEOUT", 0)
        program = given.get("SAGEMAKER_PROGRAM")
        return cls(
            model_dir=model_dir,
            submit_dir=given.get("SAGEMAKER_SUBMIT_DIRECTORY"),
            program=program and program.removesuffix(".py"),
            workers=_number(given, "SAGEMAKER_MODEL_SERVER_WORKERS", 1),
            timeout=float(_number(given, "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", timeout)),
            start_timeout=float(start_timeout) if start_timeout else None,
            accept=given.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", ANY),
            max_body_size=_number(given, "SAGEMAKER_MAX_PAYLOAD_IN_MB", LARGEST_PAYLOAD) * MEGABYTE,
            port=_number(given, "SAGEMAKER_BIND_TO_PORT", 8080),
            log_level=_number(given, "SAGEMAKER_CONTAINER_LOG_LEVEL", 20),
        )


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default)).strip()
    if not text.isascii() or not text.isdecimal():
        raise ConfigurationError(f"{name}={text} is no whole number")
    return int(text)
