"""The tasks that follow answers: callers in several API processes send their next ones a moment after each other."""

from __future__ import annotations

ECHO = 0.001
"""Seconds after its answers in which the next tasks of an API process are expected: the way there and back, and what
its callers do in between."""

SHARE = 10
"""How many times as long as `ECHO` a call must take for a batch to wait for them."""


class Echoes:
    """Tells whether tasks are expected because answers have just been sent.

    Callers in one process send their next tasks in one turn of its event loop, so they join one batch. If a batch was
    for callers in two processes, the next tasks come in two frames, and an idle worker would take the first alone.
    """

    def __init__(self) -> None:
        self._due: dict[int, float] = {}

    def note_answers(self, guest: int, now: float) -> None:
        """Note that an API process is sent answers.

        Args:
            guest: Its number.
            now: The time on the clock of ``time.monotonic``.
        """
        self._due[guest] = now + ECHO

    def note_tasks(self, guest: int) -> None:
        """Note that an API process has sent tasks, or is gone."""
        self._due.pop(guest, None)

    def until(self, now: float) -> float:
        """Return until when tasks are expected.

        Args:
            now: The time on the clock of ``time.monotonic``.

        Returns:
            The time on the same clock; 0 if none are expected.
        """
        latest = 0.0
        for guest, due in list(self._due.items()):
            if due <= now:
                del self._due[guest]
            elif due > latest:
                latest = due
        return latest
