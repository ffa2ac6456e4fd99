"""The times and windows of the engine, in one object that is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from ..exceptions import ConfigurationError


@dataclass(frozen=True)
class Timing:
    """Times of the engine, in seconds.

    Attributes:
        first_wait: The longest wait before the next launch after a worker failed to become ready; it doubles with each
            further failure. Two launches in one slot are never closer than this either.
        longest_wait: The upper limit of that wait.
        quick_load: A step whose workers load faster than this replaces dead ones without a wait.
        longest_spacing: The longest time between two launches in one slot of such a step.
        healthy_after: In any other step, a worker that was ready for so long clears the deaths before it.
        max_deaths: Deaths in `death_window` that a step of one worker may have before it counts as broken; each further
            worker allows one more.
        death_window: The window in which deaths are counted; it is longer for models that load slowly.
        hang_after: The shortest call of a handler that may count as hanging.
        check_interval: The time from one check of a handler's health to the next.
        give_up_after: The time of hanging, or without a ready worker, after which only a restart of the server helps.
        stop_time: The time from the message that stops an idle worker to SIGTERM; `on_stop` runs in it. With the 25 s
            that a graceful stop waits for tasks by default, all ends before Kubernetes kills after 30 s.
        memory_interval: The shortest time between two readings of the memory of a worker whose growth is limited.
        frame_timeout: The longest pause inside a frame before the worker that sends it is killed.
        busy_window: The time over which the busy share of workers is taken.
        idle_time: The time without a task after which memory that is only kept warm returns to the system.
        log_interval: The shortest time between two reports of dropped log records.
        silence: The time without a sign of life after which a pipeline process hangs: nothing in it takes so long.
        patience: The time without a pipeline process after which a warning says what this process waits for.
        answer_grace: The time beyond the deadline of a start for the answer of a pipeline process, whose own error at
            the deadline says more.

    Raises:
        ConfigurationError: A value is negative.
    """

    first_wait: float = 0.5
    longest_wait: float = 30.0
    quick_load: float = 5.0
    longest_spacing: float = 4.0
    healthy_after: float = 60.0
    max_deaths: int = 5
    death_window: float = 300.0
    hang_after: float = 60.0
    check_interval: float = 10.0
    give_up_after: float = 300.0
    stop_time: float = 3.0
    memory_interval: float = 1.0
    frame_timeout: float = 5.0
    busy_window: float = 30.0
    idle_time: float = 10.0
    log_interval: float = 10.0
    silence: float = 5.0
    patience: float = 2.0
    answer_grace: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ConfigurationError(f"Timing needs {name} >= 0, got {value}")


DEFAULT_TIMING = Timing()
