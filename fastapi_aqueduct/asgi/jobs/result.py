"""What a client gets of a finished task."""

from __future__ import annotations

from typing import Any

from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse, Response

from ...exceptions import UsageError
from ...task import BaseTask
from ..binding.parameters import constructor_parameters

_OWN = ("task_id", "priority", "expiration_time")


def default_result(task: BaseTask) -> Response:
    """Return the fields that the handlers have set: those that are no parameters of the constructor.

    A single field of bytes is the body of the response; otherwise the fields are a JSON object.

    Raises:
        UsageError: A field has no form in JSON.
    """
    inputs = constructor_parameters(type(task))
    fields = {
        name: value
        for name, value in vars(task).items()
        if name not in inputs and name not in _OWN and not name.startswith("_")
    }
    values = list(fields.values())
    if len(values) == 1 and isinstance(values[0], (bytes, bytearray, memoryview)):
        return Response(bytes(values[0]), media_type="application/octet-stream")
    try:
        return JSONResponse({name: _plain(value) for name, value in fields.items()})
    except Exception as exc:
        raise UsageError(
            f"the result of a {type(task).__qualname__} has no form in JSON: give the endpoint a function that returns "
            f"one, @jobs.endpoint(flow, result=...): {exc}"
        ) from exc


def _plain(value: Any) -> Any:
    return jsonable_encoder(value.tolist() if hasattr(value, "tolist") else value)
