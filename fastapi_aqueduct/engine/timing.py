"""The times by which workers are supervised, in one object that is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Times of the supervision of workers; all are in seconds.

    Attributes:
        first_wait: From a failure to become ready until the next launch, at most; the wait doubles with each further
            failure. Two launches in the place of one worker are never closer than this either.
        longest_wait: The most that this wait grows to.
        quick_load: A step whose workers load in less replaces those that die without a wait.
        longest_spacing: The most time between two launches in the place of a worker of such a step.
        healthy_after: A worker of another step that was ready for so long makes up for the deaths before.
        max_deaths: Deaths in `death_window` that do not count as broken, with one more for each further worker.
        death_window: The time in which they are counted; it is longer for models that load slowly.
        hang_after: A call of the handler takes so long at least before a step may count as hanging.
        give_up_after: From then, or without a ready worker, until only a restart of the server may help.
        stop_time: From the message that stops an idle worker to SIGTERM; `on_stop` runs meanwhile. With the 25 seconds
            that a graceful stop waits for tasks by default, all is over before Kubernetes kills after 30.
        memory_interval: At least between two looks at the memory of a worker whose growth is limited.
        frame_timeout: A worker that has begun a frame and sends nothing of it for so long is no longer understood.
    """

    first_wait: float = 0.5
    longest_wait: float = 30.0
    quick_load: float = 5.0
    longest_spacing: float = 4.0
    healthy_after: float = 60.0
    max_deaths: int = 5
    death_window: float = 300.0
    hang_after: float = 60.0
    give_up_after: float = 300.0
    stop_time: float = 3.0
    memory_interval: float = 1.0
    frame_timeout: float = 5.0


DEFAULT_TIMING = Timing()
