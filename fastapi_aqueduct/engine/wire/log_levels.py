"""The levels of loggers: read in the API process, set in its workers."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Collection
from typing import NamedTuple

PROBE = "fastapi_aqueduct.levels"
"""The name of a logger that no user code uses; see `LevelWatch` in the API process."""

ROOT = "root"
"""The name of the root logger."""


class LogLevels(NamedTuple):
    """The levels of the loggers of a process.

    Attributes:
        disabled: The level up to which `logging.disable` disables all loggers.
        levels: The level of each logger that has one of its own, and that of the root logger.
    """

    disabled: int
    levels: dict[str, int]

    @classmethod
    def read(cls) -> LogLevels:
        """Return the levels of this process."""
        root = logging.getLogger()
        levels = {
            name: logger.level
            for name, logger in list(root.manager.loggerDict.items())  # another thread may add one
            if isinstance(logger, logging.Logger) and logger.level and name != PROBE
        }
        levels[ROOT] = root.level
        return cls(root.manager.disable, levels)

    @classmethod
    def lowest(cls, processes: Collection[LogLevels]) -> LogLevels:
        """Return levels with which everything is logged that one of several processes wants.

        Args:
            processes: The levels of each.
        """
        names = {name for process in processes for name in process.levels}
        levels = {name: min(process.level_of(name) for process in processes) for name in names}
        return cls(min(process.disabled for process in processes), levels)

    def level_of(self, name: str) -> int:
        """Return the level that counts for a logger.

        Args:
            name: Its name.
        """
        while name:
            if level := self.levels.get(name, logging.NOTSET):
                return level
            name = name.rpartition(".")[0]
        return self.levels[ROOT]

    def without(self, name: str) -> LogLevels:
        """Return the levels of all but one logger and those below it.

        Args:
            name: Its name.
        """
        kept = {key: level for key, level in self.levels.items() if key != name and not key.startswith(f"{name}.")}
        return LogLevels(self.disabled, kept)

    def apply(self) -> None:
        """Give the loggers of this process these levels, and no others."""
        self.apply_changes(LogLevels.read())

    def apply_changes(self, before: LogLevels) -> None:
        """Set what has changed; levels that user code has set itself remain.

        Args:
            before: What was set before.
        """
        if self.disabled != before.disabled:
            logging.disable(self.disabled)
        for name in before.levels.keys() | self.levels.keys():
            level = self.levels.get(name, logging.NOTSET)
            if level != before.levels.get(name, logging.NOTSET):
                logging.getLogger(name).setLevel(level)

    def pack(self) -> bytes:
        """Return the payload of a frame of kind LEVELS."""
        return pickle.dumps(tuple(self), 5)

    @staticmethod
    def unpack(payload: bytes) -> LogLevels:
        """Read the payload of a frame of kind LEVELS."""
        return LogLevels(*pickle.loads(payload))
