"""The function and its model. The workers import this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi_aqueduct import in_worker

if TYPE_CHECKING:
    from rapidocr import RapidOCR


def load_ocr() -> RapidOCR:
    from rapidocr import RapidOCR

    return RapidOCR()


@in_worker(load=load_ocr, nprocs=2, timeout_sec=30)
def read(ocr: RapidOCR, picture: memoryview) -> list[str]:
    return list(ocr(bytes(picture)).txts or [])
