"""What a session tells while it runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text


class Observer(Protocol):
    """Gets what a session tells."""

    def doing(self, what: str) -> None:
        """Get what is measured now."""

    def expect(self, seconds: float) -> None:
        """Get the seconds that remain."""


class _Span:
    """The time of a session: when it has begun, and when it is to end."""

    def __init__(self, seconds: float) -> None:
        self.begun = time.monotonic()
        self.end = self.begun + seconds

    @property
    def left(self) -> int:
        """Seconds that remain."""
        return max(0, round(self.end - time.monotonic()))


def _whole() -> Column:
    """Return a column whose text stays in one line: on a narrow terminal the bar becomes shorter."""
    return Column(no_wrap=True)


class _ClockBar(ProgressColumn):
    """A bar that follows the clock."""

    def __init__(self, span: _Span) -> None:
        super().__init__()
        self._span = span

    def render(self, task: Task) -> ProgressBar:
        passed = time.monotonic() - self._span.begun
        return ProgressBar(total=max(passed, self._span.end - self._span.begun), completed=passed, width=40)


class _TimeLeft(ProgressColumn):
    """The time that remains."""

    def __init__(self, span: _Span) -> None:
        super().__init__(_whole())
        self._span = span

    def render(self, task: Task) -> Text:
        return Text(f"{self._span.left // 60}:{self._span.left % 60:02d} left", style="progress.remaining")


class Bar:
    """A progress bar, with what is measured and the time left.

    Args:
        console: Where it is shown. Where that is no terminal, each measurement is a line.
        budget: Seconds of the session.
    """

    def __init__(self, console: Console, budget: float) -> None:
        self._console = console
        self._span = _Span(budget)
        self._progress = Progress(
            *(_ClockBar(self._span), _TimeLeft(self._span), TextColumn("{task.description}", table_column=_whole())),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def doing(self, what: str) -> None:
        """Show what is measured now."""
        self._progress.update(self._task, description=what)
        if not self._console.is_terminal:
            self._console.print(f"{what} ({self._span.left} s left)")

    def expect(self, seconds: float) -> None:
        """Show the seconds that remain."""
        self._span.end = time.monotonic() + seconds
