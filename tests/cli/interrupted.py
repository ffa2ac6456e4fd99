"""Interrupts a command of developers while it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..support import DEADLINE, ROOT, members_of_session, script_environment

COMMAND = [sys.executable, "-W", "error", "-c", "from fastapi_aqueduct.cli.main import main; main()"]


def interrupted(directory: Path, arguments: Sequence[str], line: str, numbers: Sequence[int]) -> tuple[str, str]:
    """Send signals to the command when it has written a line to stderr; it must leave no process.

    Args:
        directory: Where it runs.
        arguments: Its arguments.
        line: How the line begins.
        numbers: The signals.

    Returns:
        What it has printed to stdout, and then to stderr.
    """
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=directory,
        env={**script_environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            for each in process.stderr:
                if each.startswith(line):
                    break
            for number in numbers:
                process.send_signal(number)
            shown, error = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert members_of_session(process.pid) == []
    return shown, error
