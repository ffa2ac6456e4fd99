"""The page on the command line shows what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastapi_aqueduct.cli.check.finding import Code
from fastapi_aqueduct.cli.developer import COMMANDS

from ..guards.test_documentation import write_modules
from ..support import DEADLINE, ROOT, script_environment

PAGE = (ROOT / "docs" / "command-line.md").read_text()

BLOCKS: Sequence[str] = re.findall(r"^```(?:console|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def printed(command: str, directory: Path, timeout: float = DEADLINE) -> str:
    """Run a command as the page shows it, and return what it prints."""
    program, *arguments = command.removeprefix("$ ").split()
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=directory,
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def without_numbers(text: str) -> list[str]:
    """Return the lines with what differs from run to run left out."""
    number = r"(?:\d[\d.]*(?:e[+-]\d+)?(?: (?:B|[KMG]iB|us|ms|s)\b)?|(?<= )-(?= ))"
    return [re.sub(" +", " ", re.sub(number, "#", line)).strip() for line in text.splitlines()]


def test_each_command_and_each_finding_has_its_place() -> None:
    sections = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert {*COMMANDS, "serve", "sagemaker"} <= set(sections)
    assert re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, re.MULTILINE) == list(Code)


def test_the_findings_of_the_page(tmp_path: Path) -> None:
    write_modules("docs/command-line.md", tmp_path)
    command, findings = BLOCKS[:2]
    assert without_numbers(printed(command, tmp_path))[-3:] == without_numbers(findings)


@pytest.mark.long
@pytest.mark.parametrize("block", BLOCKS[2:], ids=lambda block: str(block.split()[3]))
def test_what_a_check_of_the_examples_prints(block: str) -> None:
    """Up to the findings, of which some depend on the machine."""
    command, _, shown = block.partition("\n")
    found = without_numbers(printed(command, ROOT, 5 * DEADLINE))
    wanted = without_numbers(shown)
    end = max(index for index, line in enumerate(wanted) if not line)
    assert found[:end] == wanted[:end]
