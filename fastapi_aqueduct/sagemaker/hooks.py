"""The hooks: functions of a plug-in that say how a model is loaded and called."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from ..exceptions import ConfigurationError
from .accept import MIMEAccept

try:
    from pluggy import HookimplMarker, HookspecMarker
except ModuleNotFoundError as exc:
    raise ConfigurationError(
        "fastapi_aqueduct.sagemaker needs pluggy: python -m pip install 'fastapi-aqueduct[sagemaker]'"
    ) from exc

CONTRACT: Final = "inference_server"
"""The name of the contract: of the marks of hooks, and of the group of entry points. It is that of the package
inference-server, so that its plug-ins are found as they are."""

plugin_hook = HookimplMarker(CONTRACT)
"""Marks a function as a hook: ``@plugin_hook`` or ``@plugin_hook(trylast=True)``; see the package pluggy.

A module that marks none of its functions has as hooks those with the names of hooks."""

_spec = HookspecMarker(CONTRACT)


class BatchStrategy(Enum):
    """How many records a request of a Batch Transform job has."""

    SINGLE_RECORD = "SingleRecord"
    """One."""

    MULTI_RECORD = "MultiRecord"
    """As many as fit into the largest payload."""


class Hooks:
    """The hooks, and what they do by default. A hook takes those of its parameters that it needs, by their names."""

    @staticmethod
    @_spec(firstresult=True)
    def model_fn(model_dir: str) -> Any:
        """Load the model. Called once in each worker, before the first request.

        Args:
            model_dir: Where the files of the model are, such as ``/opt/ml/model``.
        """

    @staticmethod
    @_spec(firstresult=True)
    def ping_fn(model: Any) -> bool:  # type: ignore[empty-body]
        """Return whether the model works. Called in each worker before the first request, and then every 10 seconds
        between requests.

        Args:
            model: What `model_fn` has returned.
        """

    @staticmethod
    @_spec(firstresult=True)
    def input_fn(input_data: bytes, content_type: str | None) -> Any:
        """Read the body of a request.

        Args:
            input_data: The body, as it was sent.
            content_type: The header Content-Type; None without one. Annotated as ``Literal["text/csv"]`` it declares
                what the hook reads; other types are refused with 415.
        """

    @staticmethod
    @_spec(firstresult=True)
    def predict_fn(data: Any, model: Any) -> Any:
        """Make a prediction; with a ``batch_size`` for a list of inputs, as a list of predictions in the same order.

        Args:
            data: What `input_fn` has returned.
            model: What `model_fn` has returned.
        """

    @staticmethod
    @_spec(firstresult=True)
    def output_fn(prediction: Any, accept: MIMEAccept) -> tuple[bytes, str]:  # type: ignore[empty-body]
        """Write a prediction, and return its bytes and their media type.

        Annotated as ``tuple[bytes, Literal["text/csv"]]`` it declares what the hook writes; a client that accepts none
        of it is refused with 406.

        Args:
            prediction: What `predict_fn` has returned.
            accept: What the client accepts.
        """

    @staticmethod
    @_spec(firstresult=True)
    def batch_strategy() -> BatchStrategy:  # type: ignore[empty-body]
        """Return how many records a request of a Batch Transform job should have."""

    @staticmethod
    @_spec(firstresult=True)
    def max_concurrent_transforms() -> int:  # type: ignore[empty-body]
        """Return how many requests of a Batch Transform job should come at once."""

    @staticmethod
    @_spec(firstresult=True)
    def max_payload_in_mb() -> int:  # type: ignore[empty-body]
        """Return how many megabytes a request of a Batch Transform job may have."""


HOOKS: Final = tuple(name for name in vars(Hooks) if not name.startswith("_"))
"""The names of the hooks."""
