"""A task with a body that is never taken apart; imports no web framework."""

from __future__ import annotations

from fastapi_aqueduct import BaseTask, BaseTaskHandler, RawUpload, UploadInfo, in_worker

NOTHING = memoryview(b"")


class Document(BaseTask):
    """A body as it was sent."""

    def __init__(self, body: RawUpload, body_info: UploadInfo, note: str = "") -> None:
        super().__init__()
        self.body: RawUpload | None = body
        self.body_info = body_info
        self.note = note
        self.content = b""


class MaybeDocument(BaseTask):
    """A body that may be missing."""

    def __init__(self, body: RawUpload = NOTHING) -> None:
        super().__init__()
        self.body: RawUpload | None = body
        self.content = b""


class Read(BaseTaskHandler):
    def handle(self, *tasks: Document | MaybeDocument) -> None:
        for task in tasks:
            assert task.body is not None
            assert task.body.readonly
            task.content = bytes(task.body)
            task.body = None


@in_worker(mp_start_method="forkserver")
def read(body: memoryview) -> bytes:
    return bytes(body)
