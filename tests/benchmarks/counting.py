"""Counts the instructions of a benchmark's pieces with valgrind (callgrind).

The count is the same in every run, however busy the machine is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TIMEOUT = 300.0

KEPT = ("PATH", "LD_LIBRARY_PATH")
"""Variables of the environment with which valgrind and the libraries of the interpreter are found."""


def run_subject(*command: str) -> dict[str, Any]:
    """Run a command and return the JSON object that it prints."""
    # A random seed would change how full the buckets of sets and dicts of strings are. Further variables change the
    # counts, too: those of make bring half a percent.
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"PYTHONHASHSEED": "0"}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=TIMEOUT, check=True)
    values: dict[str, Any] = json.loads(answer.stdout)
    return values


def count_instructions(subject: str) -> dict[str, float]:
    """Run the module ``subject`` under callgrind and return the instructions of one run of each of its pieces.

    The module marks begin and end of each piece and prints how many times each ran (`subjects.micro.count`).
    """
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "callgrind")
        times = run_subject(
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            f"--callgrind-out-file={output}",
            "--dump-before=getpriority",
            sys.executable,
            "-m",
            subject,
            "marks",
        )
        # Each mark writes a file with what was counted since the mark before: every second one holds a piece.
        totals = [_total(Path(f"{output}.{2 * number}")) for number in range(1, len(times) + 1)]
    return {name: total / times[name] for name, total in zip(times, totals, strict=True)}


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path.name} has no total")
    return int(found[1])
