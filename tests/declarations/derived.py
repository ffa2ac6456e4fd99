"""A dataclass whose base is annotated with names that this module does not have."""

from __future__ import annotations

from dataclasses import dataclass

from .tasks import Base


@dataclass
class Derived(Base):
    """More inputs behind those of its base."""

    second: int = 2
