"""What has gone wrong in a step lately, for people who look at it."""

from __future__ import annotations

import time
from collections.abc import Callable

from .statistics import Incident, IncidentKind

KEPT = 16
"""How many incidents of each kind are kept."""

MAX_TEXT = 400
"""Characters of a text that are kept."""


class IncidentLog:
    """Keeps the last incidents of a step. Those of the same kind and subject are one, with a number.

    So a flood of one error hides neither the others nor a death.

    Args:
        now: The clock: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._found: dict[IncidentKind, dict[str, Incident]] = {kind: {} for kind in IncidentKind}

    def note(self, kind: IncidentKind, subject: str, text: str) -> None:
        """Note an incident.

        Args:
            kind: What has happened.
            subject: What it has happened to, or the name of an error: incidents with the same subject are one.
            text: Why.
        """
        found = self._found[kind]
        subject = _shorten(subject)
        known = found.pop(subject, None)  # the last one goes to the end
        found[subject] = Incident(kind, subject, _shorten(text), self._now(), 1 if known is None else known.count + 1)
        if len(found) > KEPT:
            del found[next(iter(found))]

    def recent(self) -> tuple[Incident, ...]:
        """List them, the last one first. May be called in any thread."""
        found = [incident for incidents in self._found.values() for incident in list(incidents.values())]
        return tuple(sorted(found, key=lambda incident: incident.at, reverse=True))


def describe_error(exc: BaseException | None) -> str:
    """Return the class and the text of an exception, whose ``__str__`` may be of a user; empty for None."""
    if exc is None:
        return ""
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:
        return type(exc).__name__


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
