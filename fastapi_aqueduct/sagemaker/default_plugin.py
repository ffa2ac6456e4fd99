"""The hooks for which a plug-in has none: they pass bytes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .accept import MIMEAccept
from .hooks import BatchStrategy, plugin_hook


@plugin_hook(trylast=True)
def model_fn(model_dir: str) -> Callable[[bytes], bytes]:
    """Return a model that returns its input.

    Args:
        model_dir: Not used.
    """
    return lambda data: data


@plugin_hook(trylast=True)
def ping_fn(model: Any) -> bool:
    """Return True: a model that is loaded works.

    Args:
        model: The model.
    """
    return True


@plugin_hook(trylast=True)
def input_fn(input_data: bytes, content_type: str | None) -> bytes:
    """Return the body.

    Args:
        input_data: The body.
        content_type: Not used.
    """
    return input_data


@plugin_hook(trylast=True)
def predict_fn(data: Any, model: Callable[[Any], Any]) -> Any:
    """Call the model.

    Args:
        data: Its argument.
        model: The model.
    """
    return model(data)


@plugin_hook(trylast=True)
def output_fn(prediction: bytes, accept: MIMEAccept) -> tuple[bytes, str]:
    """Return the prediction as ``application/octet-stream``.

    Args:
        prediction: The prediction.
        accept: Not used.
    """
    return prediction, "application/octet-stream"


@plugin_hook(trylast=True)
def batch_strategy() -> BatchStrategy:
    """Return `BatchStrategy.MULTI_RECORD`."""
    return BatchStrategy.MULTI_RECORD


@plugin_hook(trylast=True)
def max_concurrent_transforms() -> int:
    """Return 1; a service says instead how many requests its workers have in hand at once."""
    return 1


@plugin_hook(trylast=True)
def max_payload_in_mb() -> int:
    """Return 6."""
    return 6
