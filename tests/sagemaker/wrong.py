"""Plug-ins that cannot be used."""

from __future__ import annotations

from typing import Any


class OtherNames:
    """As the hooks of SageMaker's own containers have them, which are called by position."""

    @staticmethod
    def input_fn(request_body: bytes) -> Any:
        return request_body


class Asynchronous:
    @staticmethod
    async def predict_fn(data: Any) -> Any:
        return data


class Nothing:
    """Has no hook."""

    def load(self) -> None:
        pass


class OnlyBytes:
    """Does not say in which media type its answer is."""

    @staticmethod
    def output_fn(prediction: bytes) -> Any:
        return prediction
