"""Errors in the form of OpenAI's API, for every route of the application."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from example_app.chat.model import ModelError, PromptTooLong
from example_app.chat.schema import Problem, ProblemBody

log = logging.getLogger(__name__)

BROKEN = "The server could not complete the answer."


class RequestProblem(Exception):
    """A request that cannot be served.

    Args:
        status: The HTTP status.
        problem: What is wrong.
        headers: Additional headers.
    """

    def __init__(self, status: int, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.message)
        self.status = status
        self.problem = problem
        self.headers = headers


def unknown_model(name: str) -> RequestProblem:
    """Return the error for a model that this service does not have."""
    text = f"The model `{name}` does not exist; GET /v1/models lists those of this service."
    problem = Problem(message=text, type="invalid_request_error", param="model", code="model_not_found")
    return RequestProblem(404, problem)


def install(app: FastAPI) -> None:
    """Make the errors of an application those of OpenAI's API."""
    app.exception_handler(RequestProblem)(_respond)
    app.exception_handler(RequestValidationError)(_refuse)
    app.exception_handler(HTTPException)(_respond_http)
    app.exception_handler(PromptTooLong)(_refuse_prompt)
    app.exception_handler(ModelError)(_fail)
    app.exception_handler(Exception)(_fail)


async def _respond(request: Request, error: RequestProblem) -> JSONResponse:
    return JSONResponse(ProblemBody(error=error.problem).model_dump(), error.status, error.headers)


async def _refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or None
    text = first["msg"] if place is None else f"{place}: {first['msg']}"
    problem = Problem(message=text, type="invalid_request_error", param=place, code=first["type"])
    return await _respond(request, RequestProblem(400, problem))


async def _respond_http(request: Request, error: HTTPException) -> JSONResponse:
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    headers = dict(error.headers) if error.headers else None
    return await _respond(request, RequestProblem(error.status_code, Problem(message=error.detail, type=kind), headers))


async def _refuse_prompt(request: Request, error: PromptTooLong) -> JSONResponse:
    code = "context_length_exceeded"
    problem = Problem(message=f"{error}", type="invalid_request_error", param="messages", code=code)
    return await _respond(request, RequestProblem(400, problem))


async def _fail(request: Request, error: Exception) -> JSONResponse:
    return await _respond(request, RequestProblem(500, Problem(message=BROKEN, type="server_error")))
