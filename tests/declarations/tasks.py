"""Tasks in every form; what works on them imports no web framework."""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from annotated_types import Ge

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FormField, Upload, UploadInfo

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")
S = TypeVar("S")

numbers = count(1)
"""Gives each task a number, to tell defaults that are made once from those that are made each time."""


@dataclass
class Scan(BaseTask):
    """A dataclass as most tasks are: inputs first, then what handlers set."""

    image: Upload
    title: Annotated[str, FormField()] = ""
    tags: Annotated[list[str], FormField()] = field(default_factory=list)
    min_score: Annotated[float, Ge(0)] = 0.5
    number: int = field(default_factory=lambda: next(numbers))
    image_info: UploadInfo | None = None
    lines: list[str] = field(default_factory=list, init=False)
    total: Decimal | None = field(default=None, init=False)


@dataclass
class Base(BaseTask):
    """What other dataclasses have in common."""

    first: int
    _: KW_ONLY
    secret: InitVar[str] = "none"
    seen: list[Any] = field(default_factory=list, init=False)

    def __post_init__(self, secret: str) -> None:
        self.length = len(secret)


@dataclass
class Box(BaseTask, Generic[T]):
    """A generic dataclass."""

    value: T
    others: list[T] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list, init=False)


class Pair(BaseTask, Generic[T, S]):
    """A generic class with a constructor."""

    def __init__(self, left: T, right: S | None = None) -> None:
        super().__init__()
        self.left = left
        self.right = right
        self.seen: list[Any] = []


class Half(Pair[T, bytes], Generic[S, T]):
    """Knows one of the types, and changes the order of the others."""


class Numbers(Half[str, int]):
    """Knows all of them."""


class See(BaseTaskHandler):
    """Tells what a task holds, and of which type."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            names = [name for name in ("value", "others", "left", "right", "first", "length") if hasattr(task, name)]
            task.seen = [f"{name}={getattr(task, name)!r}" for name in names]


class Read(BaseTaskHandler):
    """Reads a scan."""

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            size = None if task.image_info is None else task.image_info.size
            task.lines = [f"{len(task.image)} {size} {task.title} {task.tags} {task.min_score}"]
            del task.image
