"""Prints what happened to a recorded task, and what happens now."""

from __future__ import annotations

import pdb
import platform
import traceback
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ...engine.wire.exception_pickle import chain_of, name_of
from ...exceptions import HandlerTimeout
from ..traceback import without_package

_MOST_PACKAGES = 20


class Report:
    """Prints what happened to a recorded task, and what happens now.

    Args:
        console: Where it prints.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, metadata: Mapping[str, Any]) -> None:
        """Show all that was recorded beside the task."""
        self.begin(metadata)
        exception = metadata.get("exception", {})
        self._print(f"\n{_plain(exception.get('traceback', '')).rstrip()}")
        worker = metadata.get("worker", {})
        if worker.get("died"):
            self._print(
                f"the worker died: exit code {worker.get('exit_code')} {worker.get('reason', '')}, with "
                f"{worker.get('tasks_in_hand')} tasks in hand"
            )
        self._print(f"\ntarget: {metadata.get('target')}, handler version {metadata.get('version')}")
        for name, value in metadata.get("fields", {}).items():
            self._print(f"  {name}: {value}")
        packages = (f"{name} {release}" for name, release in metadata.get("packages", {}).items())
        self._print(f"Python {metadata.get('python')}, {metadata.get('platform')}: {', '.join(packages)}")

    def begin(self, metadata: Mapping[str, Any]) -> None:
        """Say what happened in one line, and what is different here."""
        exception, worker = metadata.get("exception", {}), metadata.get("worker", {})
        self._console.print(
            f"[bold]step {_safe(metadata.get('step'))} of flow {_safe(metadata.get('flow'))}[/] failed at "
            f"{_safe(metadata.get('time'))} in a worker (pid {_safe(worker.get('pid'))}): {_describe(exception)}",
            soft_wrap=True,
        )
        for line in _differences(metadata):
            self._print(f"  {line}")
        if metadata.get("redacted"):
            self._print("  the task was redacted before it was written")

    def note_step(self, name: str, seconds: float, items: int) -> None:
        """Say that a step is done."""
        self._print(f"step {name}: done in {seconds:.3f} s" + f", {items} items" * bool(items))

    def note_skipped(self, name: str) -> None:
        """Say that a step is not visited."""
        self._print(f"step {name}: not visited")

    def note_test(self, path: Path) -> None:
        """Say where the test is."""
        self._print(f"{path} is written: python -m pytest {path}")

    def note_interrupt(self, interrupt: KeyboardInterrupt, has_debugger: bool) -> None:
        """Show where it was."""
        self._trace(interrupt)
        self._print("interrupted")
        self._debug(interrupt, has_debugger)

    def note_end(self, end: str) -> None:
        """Say that the task has ended the process that ran it.

        Args:
            end: How, in words.
        """
        self._print(f"the process {end}")
        self._console.print("[red]it still fails[/]")

    def end(self, metadata: Mapping[str, Any], error: BaseException | None, has_debugger: bool) -> None:
        """Say whether it still fails.

        Args:
            metadata: What happened.
            error: What happens now; None: the task is done.
            has_debugger: Whether the debugger is opened.
        """
        if error is None:
            self._console.print("[green]it does not fail any more[/]")
            return
        self._trace(error)
        recorded = str(metadata.get("exception", {}).get("type"))
        now = name_of(error).removeprefix("builtins.")
        if recorded == now or isinstance(error, HandlerTimeout):  # of a plain handler it was the death of its worker
            self._console.print("[red]it still fails[/]")
        else:
            self._console.print(
                f"[red]it fails, with another exception[/]: {_safe(now)}, and it was {_safe(recorded)}", soft_wrap=True
            )
        self._debug(error, has_debugger)

    def _trace(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error)).rstrip()
        self._print(without_package(text) or text)

    def _debug(self, error: BaseException, has_debugger: bool) -> None:
        for found in chain_of(error):
            error = found
            if not isinstance(found, HandlerTimeout | TimeoutError):  # else its cause tells where a coroutine was
                break
        if has_debugger and error.__traceback__ is not None:
            pdb.post_mortem(error.__traceback__)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _differences(metadata: Mapping[str, Any]) -> list[str]:
    """List what is different from where the task failed."""
    lines = []
    if metadata.get("python") != platform.python_version():
        lines.append(f"Python {platform.python_version()} here, {_plain(metadata.get('python'))} there")
    for name, there in metadata.get("packages", {}).items():
        try:
            here = version(str(name))
        except PackageNotFoundError:
            here = "none"
        except ValueError:  # its name is empty
            continue
        if here != there:
            lines.append(f"{_plain(name)} {here} here, {_plain(there)} there")
    if len(lines) > _MOST_PACKAGES:
        lines[_MOST_PACKAGES:] = [f"and {len(lines) - _MOST_PACKAGES} other packages are of other versions"]
    if metadata.get("version", 1) != 1:
        lines.append(f"it was version {metadata['version']} of the handler, and this is the one in the code")
    return lines


def _describe(exception: Mapping[str, Any]) -> str:
    return f"[red]{_safe(exception.get('type'))}[/]: {_safe(exception.get('message'))}"


def _plain(value: object) -> str:
    """Return a text without what a terminal would act on: it comes from a file."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in str(value))


def _safe(value: object) -> str:
    return escape(_plain(value))
