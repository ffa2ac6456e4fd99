"""The application that serves a model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Unpack

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..asgi.endpoints.decorator import flow_endpoint
from ..asgi.extension import Aqueduct
from ..asgi.responses import SharedResponse
from ..asgi.settings import UploadLimits
from ..flow import Flow
from ..function_options import FunctionOptions, split_options
from ..step import FlowStep
from .accept import accepted
from .contract import Contract
from .environment import LARGEST_PAYLOAD, Environment
from .errors import InvocationError
from .invocation import Inquiry, Invocation, ModelHandler
from .plugins import PlugIn

NAME = "sagemaker"
"""Name of the flow, unless it is given another one."""

_INQUIRY_TIMEOUT = 60.0
"""Seconds in which a worker, which has nothing else to do then, must say what its hooks declare."""


def create_app(
    target: str | None = None,
    *,
    batch_size: int | None = None,
    model_dir: str | Path | None = None,
    timeout_sec: float | None = None,
    check_timeout: float | None = 10.0,
    **options: Unpack[FunctionOptions],
) -> Starlette:
    """Make an application that serves a model as Amazon SageMaker asks for it.

        app = create_app("inference", nprocs=2)

    ``POST /invocations`` makes a prediction, ``GET /ping`` says whether the model works, and
    ``GET /execution-parameters`` is for Batch Transform jobs. The hooks run in worker processes, each of which has the
    model; see `fastapi_aqueduct.sagemaker.hooks.Hooks`.

    Args:
        target: The hooks: name of an installed plug-in, a module, or ``module:name``. Default: the module that the
            variable SAGEMAKER_PROGRAM names, or all installed plug-ins (entry points of the group
            ``inference_server``).
        batch_size: The most requests in one call of ``predict_fn``, which then gets a list of inputs and returns a
            list of predictions. Default: it gets one input.
        model_dir: Where the files of the model are; default: SM_MODEL_DIR, or ``/opt/ml/model``.
        timeout_sec: Seconds in which a request must be answered; default: SAGEMAKER_MODEL_SERVER_TIMEOUT, or 60.
        check_timeout: Seconds that one call of ``ping_fn`` may take; see `FlowStep`.
        **options: As for `in_worker`: those of `FlowStep` and `Flow`. ``nprocs`` is by default
            SAGEMAKER_MODEL_SERVER_WORKERS, or 1.

    Returns:
        An application of Starlette. The hooks are imported when it starts, in the workers only.

    Raises:
        ConfigurationError: An option or a variable has a wrong value.
        InvalidArgument: There is no such option.
    """
    environment = Environment.read(os.environ)
    given: FunctionOptions = {"name": NAME, "nprocs": environment.workers, **options}
    if environment.start_timeout is not None:
        given.setdefault("start_timeout", environment.start_timeout)
    of_step, of_flow = split_options("create_app", given)
    directory = str(model_dir or environment.model_dir)
    plugin = PlugIn(target or environment.program, environment.submit_dir or os.path.join(directory, "code"))
    handler = ModelHandler(plugin, directory, environment.accept, batch_size is not None)
    size = 1 if batch_size is None else batch_size
    step = FlowStep(handler, batch_size=size, name="predict", check_timeout=check_timeout, **of_step)
    flow = Flow(step, name=given["name"], **of_flow)
    aqueduct = Aqueduct(flow, upload_limits=UploadLimits(max_body_size=environment.max_body_size))
    service = _Service(flow, aqueduct, step.most_workers * step.batch_size, environment.accept)
    return service.app(environment.timeout if timeout_sec is None else timeout_sec)


def warmup() -> None:
    """Do nothing: each worker loads its model before the first request.

    For servers whose configuration calls it, as that of inference-server's manual does.
    """


class _Service:
    """Answers the requests for one model.

    Args:
        flow: The workers with the model.
        aqueduct: Starts them.
        in_hand: Requests that they have in hand at once.
        default_accept: The media types for a client that accepts any.
    """

    _contract: Contract

    def __init__(self, flow: Flow, aqueduct: Aqueduct, in_hand: int, default_accept: str) -> None:
        self._flow = flow
        self._aqueduct = aqueduct
        self._in_hand = in_hand
        self._default_accept = default_accept

    def app(self, timeout: float) -> Starlette:
        """Return the application.

        Args:
            timeout: Seconds in which a request must be answered.
        """

        @flow_endpoint(self._flow, timeout_sec=timeout)
        async def invocations(task: Invocation) -> Response:
            return SharedResponse(task.answer, task.media_type)

        negotiation = Middleware(_Negotiation, service=self)
        routes = [
            Route("/ping", self._ping, methods=["GET"]),
            Route("/invocations", invocations, methods=["POST"], middleware=[negotiation]),
            Route("/execution-parameters", self._execution_parameters, methods=["GET"]),
        ]
        app = Starlette(routes=routes, exception_handlers={InvocationError: _refuse}, lifespan=self._lifespan)
        self._aqueduct.install(app)
        return app

    def check(self, headers: Headers) -> None:
        """Refuse a request before its body is read.

        Args:
            headers: Its headers.

        Raises:
            UnsupportedContentType, NotAcceptable: As for `Contract.check`.
        """
        accept = accepted(",".join(headers.getlist("accept")), self._default_accept)
        self._contract.check(headers.get("content-type"), accept)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        # Inside the lifespan of the extension: the workers are ready.
        self._contract = (await self._flow.process(Inquiry(), _INQUIRY_TIMEOUT)).contract
        yield

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=200 if self._aqueduct.is_ready else 503)

    async def _execution_parameters(self, request: Request) -> Response:
        contract = self._contract
        concurrent = contract.max_concurrent
        if concurrent is None:
            concurrent = max(1, min(self._in_hand, LARGEST_PAYLOAD // max(1, contract.max_payload)))
        return JSONResponse(
            {
                "BatchStrategy": contract.batch_strategy,
                "MaxConcurrentTransforms": concurrent,
                "MaxPayloadInMB": contract.max_payload,
            }
        )


class _Negotiation:
    """Has a service check the headers of a request before its body is read.

    Args:
        app: Answers the request.
        service: The service.
    """

    def __init__(self, app: ASGIApp, service: _Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._service.check(Headers(scope=scope))
        await self._app(scope, receive, send)


async def _refuse(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, InvocationError)
    return PlainTextResponse(str(exc), exc.status)
