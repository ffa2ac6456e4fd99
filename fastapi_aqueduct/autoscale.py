"""The declaration of how many workers a step has while it serves."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from .exceptions import ConfigurationError


@dataclass(frozen=True)
class Autoscale:
    """Starts and ends workers of a step as its work comes and goes: ``FlowStep(Whisper(), nprocs=Autoscale(0, 4))``.

    A flow starts with ``minimum`` workers of the step, and with one if that is 0, so that a broken model shows at the
    start. With ``minimum=0`` the step falls asleep when it has had no task for ``idle_after``: its processes end, and
    their memory and devices are free. The next task wakes it.

    Attributes:
        minimum: The fewest workers; 0: the step may sleep.
        maximum: The most workers.
        idle_after: Seconds. A worker leaves when the step would have done without it for this time.
        up_wait: Seconds. A worker is added while tasks wait for one and the last of them should wait longer.

    Raises:
        ConfigurationError: A value cannot work.
    """

    minimum: int
    maximum: int
    _: KW_ONLY
    idle_after: float = 300.0
    up_wait: float = 0.5

    def __post_init__(self) -> None:
        if self.minimum < 0:
            raise ConfigurationError(f"Autoscale needs minimum >= 0, got {self.minimum}")
        if self.maximum < max(1, self.minimum):
            raise ConfigurationError(f"Autoscale needs maximum >= {max(1, self.minimum)}, got {self.maximum}")
        if self.idle_after <= 0:
            raise ConfigurationError(f"Autoscale needs idle_after > 0, got {self.idle_after}")
        if self.up_wait < 0:
            raise ConfigurationError(f"Autoscale needs up_wait >= 0, got {self.up_wait}")

    @property
    def start(self) -> int:
        """Number of workers that the flow starts with."""
        return max(1, self.minimum)
