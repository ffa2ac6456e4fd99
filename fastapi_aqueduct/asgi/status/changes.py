"""Changes of steps as requests ask for them."""

from __future__ import annotations

from typing import Annotated, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from ..errors import BodyTooLarge, http_errors

LARGEST = 16 << 10
"""Bytes of a body; names are short."""

Name = Annotated[str, Field(max_length=200)]


class StepChange(BaseModel):
    """Which step is to change.

    Attributes:
        flow: Name of its flow.
        step: Its name.
    """

    model_config = ConfigDict(extra="forbid")

    flow: Name
    step: Name


class ScaleChange(StepChange):
    """How many workers a step is to have.

    Attributes:
        nprocs: The number.
    """

    nprocs: Annotated[int, Field(strict=True, ge=0, le=10_000)]


class ReplaceChange(StepChange):
    """Which handler a step is to have.

    Attributes:
        handler: Its name in ``replacements``.
    """

    handler: Name


AnyChange = TypeVar("AnyChange", bound=StepChange)


async def read_change(request: Request, kind: type[AnyChange]) -> AnyChange:
    """Read the body of a request.

    FastAPI would read the body of a declared parameter as a whole before it calls the dependencies: a client that
    may not see the page could fill the memory of the server.

    Args:
        request: The request, whose dependencies have let it pass.
        kind: What its body is.

    Raises:
        HTTPException: The body is too large, or the client has left.
        RequestValidationError: It is none of this kind.
    """
    body = bytearray()
    with http_errors(request.scope):
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise BodyTooLarge(f"The body of a change has at most {LARGEST} bytes.")
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in errors]) from None
