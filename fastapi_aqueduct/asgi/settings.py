"""Settings of an application that hold for its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.types import Scope

from ..exceptions import ConfigurationError
from ..flow import ArrivalCap, Flow
from .refusal_log import RefusalLog


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Guards against clients that send too much or too slowly.

    Give it to ``Aqueduct(flow, upload_limits=...)`` for the whole application, or to one endpoint.

    Attributes:
        max_body_size: The most bytes of a body, if the endpoint has no limit of its own; default 64 MiB.
        idle_timeout: Seconds without a byte after which the client is refused with 408; None: no limit.
        min_rate: Bytes a second that a client must reach over the last ``grace`` seconds, else 408; 0: no limit.
        grace: Seconds over which ``min_rate`` is measured, for the first time when they have passed.
        max_uploads: The most uploads that may arrive at the same time for one flow, else 503; None: any number.
        max_pending_bytes: The most bytes of shared memory for uploads of one flow that are still arriving, else 503;
            None: half of the flow's ``memory_limit``. A single upload may have more.

    Raises:
        ConfigurationError: A value is negative, or ``min_rate`` is set and ``grace`` is not positive.
    """

    max_body_size: int = 64 << 20
    idle_timeout: float | None = 20.0
    min_rate: int = 1000
    grace: float = 20.0
    max_uploads: int | None = 2048
    max_pending_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise ConfigurationError(f"UploadLimits needs {name} >= 0, got {value}")
        if self.min_rate and self.grace <= 0:
            raise ConfigurationError(f"grace must be positive where there is a min_rate, got {self.grace}")

    @property
    def cap(self) -> ArrivalCap:
        """How much may be arriving at the same time."""
        return ArrivalCap(self.max_uploads, self.max_pending_bytes)


class Settings(Protocol):
    """What the `Aqueduct` of an application says about its requests."""

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The flows of the application."""

    @property
    def upload_limits(self) -> UploadLimits | None:
        """Limits of uploads for endpoints without their own."""

    @property
    def server_timing(self) -> bool:
        """Whether responses have a header Server-Timing."""

    @property
    def refusal_log(self) -> RefusalLog:
        """Logs the refused requests of the application."""

    @property
    def is_stopping(self) -> bool:
        """Whether the server was told to stop."""


def settings_of(scope: Scope) -> Settings | None:
    """Return the settings of the application that a request came to; None for one without an `Aqueduct`."""
    # The state of the lifespan reaches mounted applications, app.state reaches clients that know no lifespan.
    settings: Settings | None = scope.get("state", {}).get("aqueduct")
    if settings is None and "app" in scope:
        settings = getattr(scope["app"].state, "aqueduct", None)
    return settings


def refusal_log_of(scope: Scope) -> RefusalLog:
    """Return what logs the refused requests of the application that a request came to."""
    settings = settings_of(scope)
    if settings is not None:
        return settings.refusal_log
    if "app" not in scope:
        return RefusalLog()
    # Without an `Aqueduct` the end of the application is not noticed: the last number comes with the next refusal.
    state = scope["app"].state
    if not hasattr(state, "aqueduct_refusal_log"):
        state.aqueduct_refusal_log = RefusalLog()
    refusal_log: RefusalLog = state.aqueduct_refusal_log
    return refusal_log
