"""What happens in the cluster: a log of JSON lines, of which the picture of the documentation is drawn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any, NamedTuple


class Entry(NamedTuple):
    """A line of the log.

    Attributes:
        time: Seconds since the beginning.
        kind: What it is about: ``stage``, ``pod``, ``scale``, ``traffic``.
        data: The rest.
    """

    time: float
    kind: str
    data: dict[str, Any]


class Journal:
    """Writes the log.

    Args:
        file: Where it is written.
        echo: Whether it is printed, too.
    """

    def __init__(self, file: IO[str], echo: bool) -> None:
        self.entries: list[Entry] = []
        self._file = file
        self._echo = echo
        self._begun_at = time.monotonic()

    def note(self, kind: str, **data: Any) -> None:
        """Write an entry."""
        entry = Entry(round(time.monotonic() - self._begun_at, 2), kind, data)
        self.entries.append(entry)
        self._file.write(json.dumps({"time": entry.time, "kind": kind, **data}) + "\n")
        self._file.flush()
        if self._echo:
            print(f"{entry.time:7.1f}  {kind:8}", *(f"{name}={value}" for name, value in data.items()), flush=True)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of a kind."""
        return [entry for entry in self.entries if entry.kind == kind]


def read(path: Path) -> list[Entry]:
    """Read a log."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [Entry(line.pop("time"), line.pop("kind"), line) for line in lines]
