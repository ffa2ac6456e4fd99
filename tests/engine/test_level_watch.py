"""The levels of loggers: a change of any of them is noticed, and nothing else is."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable, Iterator

import pytest

from fastapi_aqueduct.engine.wire.log_levels import PROBE, LogLevels
from fastapi_aqueduct.engine.workers.level_watch import LevelWatch

NAME = "tests.levels"


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, handlers, disabled = LogLevels.read(), list(root.handlers), dict(disabled_loggers())
    yield
    before.apply()
    root.handlers[:] = handlers
    for logger, was_disabled in disabled.items():
        logger.disabled = was_disabled


def disabled_loggers() -> Iterator[tuple[logging.Logger, bool]]:
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            yield logger, logger.disabled


CHANGES: dict[str, Callable[[], object]] = {
    "a logger": lambda: logging.getLogger(NAME).setLevel(7),
    "the root logger": lambda: logging.getLogger().setLevel(7),
    "logging.disable": lambda: logging.disable(logging.CRITICAL),
    # Which disables the probe, too, as any logger that exists.
    "a configuration": lambda: logging.config.dictConfig({"version": 1, "loggers": {NAME: {"level": 7}}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_once(change: str) -> None:
    watch = LevelWatch()
    before = watch.current()
    CHANGES[change]()
    after = watch.current()
    assert after != before
    assert after == LogLevels.read()
    assert watch.current() is after


def test_levels_that_are_set_to_what_they_are_count_as_the_same() -> None:
    watch = LevelWatch()
    before = watch.current()
    logging.getLogger().setLevel(logging.getLogger().level)
    assert watch.current() is before


def test_levels_are_read_only_after_a_change() -> None:
    watch = LevelWatch()
    before = watch.current()
    logging.getLogger(NAME).level = 7  # without setLevel, so `logging` does not notice it either
    assert watch.current() is before


def test_levels_are_set_in_another_process_and_only_changes_later() -> None:
    logger, other = logging.getLogger(NAME), logging.getLogger(f"{NAME}.other")
    logger.setLevel(7)
    first = LogLevels.unpack(LogLevels.read().pack())
    logger.setLevel(logging.NOTSET)
    other.setLevel(9)
    first.apply()
    assert (logger.level, other.level) == (7, logging.NOTSET)
    assert PROBE not in first.levels
    other.setLevel(9)  # by user code of that process
    LogLevels(first.disabled, {**first.levels, NAME: 8}).apply_changes(first)
    assert (logger.level, other.level) == (8, 9)
    first.apply_changes(LogLevels(first.disabled, {**first.levels, NAME: 8}))
    assert (logger.level, other.level) == (7, 9)
