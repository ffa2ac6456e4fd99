"""Notices that the levels of the loggers of this process have changed."""

from __future__ import annotations

import logging

from ..wire.log_levels import PROBE, LogLevels

_LEVEL = 1 << 30
"""The level of the probe: above all that user code disables."""


class LevelWatch:
    """The levels of the loggers of this process.

    Reading them all for each frame would cost more than the frame. So one logger, the probe, shows whether any level
    has changed: `logging` caches whether a logger is enabled for a level, and clears the caches of all loggers when the
    level of any logger changes. Without such a cache the levels would be read for each frame, which is slower, but
    correct.
    """

    def __init__(self) -> None:
        self._probe = logging.getLogger(PROBE)
        self._levels: LogLevels | None = None

    def current(self) -> LogLevels:
        """Return the levels; the same object until they have changed."""
        if self._levels is None or not self._probe.isEnabledFor(_LEVEL):
            return self._renew()
        return self._levels

    def _renew(self) -> LogLevels:
        probe = self._probe
        probe.disabled = False  # by a configuration that disables all loggers that exist
        # First this: a change from another thread while the levels are read counts as the next one.
        probe.setLevel(_LEVEL)
        probe.isEnabledFor(_LEVEL)
        probe.level = _LEVEL + 1  # not with setLevel, which clears the cache
        levels = LogLevels.read()
        if levels != self._levels:
            self._levels = levels
        return self._levels


level_watch = LevelWatch()
"""That of this process: the levels are those of all its flows."""
