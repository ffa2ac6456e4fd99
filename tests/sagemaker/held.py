"""A model that takes its time."""

from __future__ import annotations

from pathlib import Path

from ..handlers import Gate


def input_fn(input_data: bytes) -> Gate:
    return Gate(Path(input_data.decode()))


def predict_fn(data: Gate) -> bytes:
    data.enter()
    return b"done"
