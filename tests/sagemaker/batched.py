"""A module without marks, whose model takes lists."""

from __future__ import annotations

from fastapi_aqueduct.sagemaker import BatchStrategy, MIMEAccept, NotAcceptable, UnsupportedContentType


def input_fn(input_data: bytes, content_type: str | None) -> float:
    if content_type != "text/plain":
        raise UnsupportedContentType("numbers are text/plain")
    return float(input_data)


def predict_fn(data: list[float]) -> list[tuple[float, int]]:
    return [(number, len(data)) for number in data if number >= 0]


def output_fn(prediction: tuple[float, int], accept: MIMEAccept) -> tuple[str, str]:
    number, size = prediction
    if number == 13:
        raise NotAcceptable("13 cannot be written")
    return f"{number:g} of {size}", "text/plain"


def batch_strategy() -> BatchStrategy:
    return BatchStrategy.SINGLE_RECORD


def max_concurrent_transforms() -> int:
    return 7


def max_payload_in_mb() -> int:
    return 3
