"""A place in a project, and what is to be done there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Finding:
    """A place that works differently here.

    Attributes:
        path: The file.
        line: The number of the line.
        text: What is there, and what to do.
        breaks: Whether it fails; otherwise it only behaves differently, or fails in some cases.
    """

    path: Path
    line: int
    text: str
    breaks: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {'breaks' if self.breaks else 'note'}: {self.text}"
