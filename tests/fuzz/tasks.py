"""Tasks of the fuzzed application; imports no web framework."""

from __future__ import annotations

from typing import Annotated

from fastapi_aqueduct import BaseTask, FormField, Upload, UploadInfo


class One(BaseTask):
    """A body, raw or as a part of a form."""

    def __init__(self, image: Upload, image_info: UploadInfo, factor: int = 1) -> None:
        super().__init__()
        self.files = {"image": image}
        self.infos = [image_info]


class Two(BaseTask):
    """Parts of a form, one of which need not come, and fields beside them."""

    def __init__(
        self,
        image: Upload,
        image_info: UploadInfo,
        mask: Upload | None = None,
        title: Annotated[str, FormField()] = "",
        numbers: Annotated[list[int], FormField()] = [],  # noqa: B006
    ) -> None:
        super().__init__()
        self.files = {"image": image} if mask is None else {"image": image, "mask": mask}
        self.infos = [image_info]
        self.title = title
        self.numbers = numbers
