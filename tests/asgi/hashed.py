"""Tasks that get the digests of their uploads; imports no web framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi_aqueduct import BaseTask, BaseTaskHandler, RawUpload, Sha256, Upload, UploadInfo, in_worker
from fastapi_aqueduct.params import Header

from ..handlers import Gate, note

Hashed = Annotated[UploadInfo, Sha256()]


@dataclass
class Page(BaseTask):
    """One upload, or the part of a form."""

    image: Upload
    image_info: Hashed
    digests: list[str | None] = field(default_factory=list, init=False)


@dataclass
class Whole(BaseTask):
    """A body as it was sent."""

    body: RawUpload
    body_info: Hashed
    digests: list[str | None] = field(default_factory=list, init=False)


@dataclass
class Book(BaseTask):
    """Several uploads, of which one has no digest."""

    pages: list[Upload]
    pages_info: list[Hashed]
    cover: Upload
    cover_info: UploadInfo
    note: Upload | None = None
    note_info: Hashed | None = None
    digests: list[str | None] = field(default_factory=list, init=False)


class Note(BaseTaskHandler):
    """Notes what tasks know of their uploads, and drops these."""

    def handle(self, *tasks: Page | Whole | Book) -> None:
        for task in tasks:
            if isinstance(task, Book):
                infos = [*task.pages_info, task.cover_info, *([task.note_info] if task.note_info else [])]
                task.pages, task.cover, task.note = [], memoryview(b""), None
            elif isinstance(task, Page):
                infos = [task.image_info]
                task.image = memoryview(b"")
            else:
                infos = [task.body_info]
                task.body = memoryview(b"")
            task.digests = [info.sha256 for info in infos]


@in_worker
def size_of(body: memoryview) -> int:
    return len(body)


@dataclass
class Scan(BaseTask):
    """An upload of a user; with the same bytes it is the same work, for that user only."""

    image: Upload
    image_info: Hashed
    x_user: Annotated[str, Header()]
    text: str = field(default="", init=False)


def same_scan(task: Scan) -> tuple[str, str | None]:
    return task.x_user, task.image_info.sha256


class Read(BaseTaskHandler):
    """Waits at a gate, and notes each run.

    Args:
        directory: A directory of the test.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def handle(self, *tasks: Scan) -> None:
        for task in tasks:
            note(self.directory / "runs", f"{task.x_user}/{len(task.image)}")
            Gate(self.directory).enter()
            task.text = f"{len(task.image)} bytes of {task.x_user}"
