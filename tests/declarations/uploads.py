"""Tasks with every kind of upload, and what looks at them in worker processes; imports no web framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FormField, PartLimits, Upload, UploadInfo


class Album(BaseTask):
    """Any number of pictures, a cover, and fields beside them."""

    def __init__(
        self,
        pictures: list[Upload],
        pictures_info: list[UploadInfo],
        title: Annotated[str, FormField()],
        cover: Upload | None = None,
        quality: int = 1,
    ) -> None:
        super().__init__()
        self.pictures = pictures
        self.infos = pictures_info
        self.title = title
        self.cover = cover
        self.quality = quality
        self.report: list[Any] = []


class Count(BaseTaskHandler):
    """Says what arrived, and where it lies."""

    def handle(self, *tasks: Album) -> None:
        for task in tasks:
            task.report = [
                [sum(picture) for picture in task.pictures],
                [tuple(info[:3]) for info in task.infos],
                {f"{type(picture).__name__} {picture.readonly}" for picture in task.pictures},
                None if task.cover is None else sum(task.cover),
                task.title,
                task.quality,
            ]
            task.pictures, task.cover = [], None


@dataclass
class Attachments(BaseTask):
    """Files that need not come."""

    files: list[Upload] = field(default_factory=list)
    files_info: list[UploadInfo] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list, init=False)


class Measure(BaseTaskHandler):
    """Takes the sizes of files."""

    def handle(self, *tasks: Attachments) -> None:
        for task in tasks:
            task.sizes = [len(file) for file in task.files]
            task.files = []


class Passport(BaseTask):
    """A picture and a document, each with limits of its own."""

    def __init__(
        self,
        photo: Annotated[Upload, PartLimits(media_type="image/*", max_size=1000)],
        papers: Annotated[
            list[Upload] | None, PartLimits(media_type=["application/pdf", "text/plain"], max_size=2000)
        ] = None,
    ) -> None:
        super().__init__()
        self.sizes = [len(photo), *map(len, papers or [])]


class Photo(BaseTask):
    """A picture, raw or in a form, and what the client said about it."""

    def __init__(
        self,
        photo: Annotated[Upload, PartLimits(media_type=["image/png", "image/jpeg"], max_size=1000)],
        photo_info: UploadInfo,
    ) -> None:
        super().__init__()
        self.size = len(photo)
        self.info = photo_info


class Maybe(BaseTask):
    """A file that need not come, and what the client said about it."""

    def __init__(self, note: Upload | None = None, note_info: UploadInfo | None = None) -> None:
        super().__init__()
        self.note = note
        self.info = note_info
        self.seen: list[Any] = []


class Look(BaseTaskHandler):
    """Says what has arrived."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            note, info = (getattr(task, name, None) for name in ("note", "info"))
            task.seen = [None if note is None else len(note), None if info is None else tuple(info[:3])]
            task.note = None
