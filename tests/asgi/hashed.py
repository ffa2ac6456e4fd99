"""Tasks that get the digests of their uploads; imports no web framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi_aqueduct import BaseTask, BaseTaskHandler, RawUpload, Sha256, Upload, UploadInfo, in_worker

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
