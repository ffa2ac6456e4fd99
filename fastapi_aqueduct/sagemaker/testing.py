"""Helpers for the tests of plug-ins: they call a model through the whole service, without a server."""

from __future__ import annotations

import io
import json as json_module
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, Self

from starlette.testclient import TestClient

from ..asgi.extension import Aqueduct
from ..testing.inline import inline
from .app import create_app
from .plugins import HookManager, installed


class ImplementsSerialize(Protocol):
    """What writes the input of a model, such as ``sagemaker.serializers.JSONSerializer()``."""

    @property
    def CONTENT_TYPE(self) -> str:
        """The Content-Type of the request."""

    def serialize(self, data: Any) -> bytes:
        """Return the body of the request.

        Args:
            data: The input.
        """


class ImplementsDeserialize(Protocol):
    """What reads the prediction of a model, such as ``sagemaker.deserializers.JSONDeserializer()``."""

    @property
    def ACCEPT(self) -> tuple[str, ...]:
        """The media types that it reads."""

    def deserialize(self, stream: Any, content_type: str) -> Any:
        """Return the prediction.

        Args:
            stream: The body of the response, with ``read`` and ``close``.
            content_type: The Content-Type of the response.
        """


class Reply(NamedTuple):
    """A response.

    Attributes:
        status_code: The HTTP status.
        headers: The headers; their names may be in upper or lower case.
        data: The body.
    """

    status_code: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def content_type(self) -> str | None:
        """The Content-Type; None without one."""
        return self.headers.get("content-type")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.data.decode()

    def json(self) -> Any:
        """Return what the body says as JSON."""
        return json_module.loads(self.data)


class Client:
    """Sends requests to a service without a server; its hooks run in a thread of this process.

    Outside a ``with`` block each request starts the service and stops it again, and so the model is loaded for each.

        with testing.client() as client:
            assert client.get("/ping").status_code == 200
            reply = client.post("/invocations", json={"location": "Fair Isle"})

    Args:
        target: As for `create_app`.
        model_dir: As for `create_app`.
    """

    def __init__(self, target: str | None, model_dir: str | Path | None) -> None:
        self._target = target
        self._model_dir = model_dir
        self._stack = ExitStack()
        self._http: TestClient | None = None

    def __enter__(self) -> Self:
        self._http = self._stack.enter_context(self._opened())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http = None
        self._stack.close()

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a GET request.

        Args:
            path: Such as ``"/ping"``.
            headers: Its headers.
        """
        return self._send("GET", path, b"", dict(headers or {}))

    def post(
        self,
        path: str,
        *,
        data: bytes | str = b"",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Reply:
        """Send a POST request.

        Args:
            path: Such as ``"/invocations"``.
            data: Its body.
            json: What its body says as JSON.
            headers: Its headers.
            content_type: Its Content-Type; with ``json`` by default ``application/json``.
        """
        given = dict(headers or {})
        if json is not None:
            data = json_module.dumps(json)
            content_type = content_type or "application/json"
        if content_type is not None:
            given["Content-Type"] = content_type
        return self._send("POST", path, data, given)

    def _send(self, method: str, path: str, data: bytes | str, headers: dict[str, str]) -> Reply:
        with ExitStack() as stack:
            http = self._http or stack.enter_context(self._opened())
            response = http.request(method, path, content=data, headers=headers)
        return Reply(response.status_code, response.headers, response.content)

    @contextmanager
    def _opened(self) -> Iterator[TestClient]:
        app = create_app(self._target, model_dir=self._model_dir)
        aqueduct: Aqueduct = app.state.aqueduct
        (flow,) = aqueduct.flows
        with inline(flow), TestClient(app) as http:
            yield http


def client(target: str | None = None, *, model_dir: str | Path | None = None) -> Client:
    """Return a client of a service. Needs httpx2 or httpx.

    Args:
        target: The hooks, as for `create_app`; default: those of all installed plug-ins, and of those that a test has
            registered with `plugin_manager`.
        model_dir: Where the files of the model are; default: as for `create_app`.
    """
    return Client(target, model_dir)


def post_invocations(
    *,
    target: str | None = None,
    model_dir: str | Path | None = None,
    data: bytes | str = b"",
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> Reply:
    """Send a request to ``/invocations`` and return the response, whose status must be 200.

    Args:
        target: As for `client`.
        model_dir: As for `client`.
        data: As for `Client.post`.
        json: As for `Client.post`.
        headers: As for `Client.post`.
        content_type: As for `Client.post`.
    """
    reply = client(target, model_dir=model_dir).post(
        "/invocations", data=data, json=json, headers=headers, content_type=content_type
    )
    assert reply.status_code == 200, f"the service has answered {reply.status_code}: {reply.text}"
    return reply


def predict(
    data: Any,
    *,
    target: str | None = None,
    model_dir: str | Path | None = None,
    serializer: ImplementsSerialize | None = None,
    deserializer: ImplementsDeserialize | None = None,
) -> Any:
    """Return the prediction of a model for an input.

    Args:
        data: The input.
        target: As for `client`.
        model_dir: As for `client`.
        serializer: Writes the input; default: it is bytes.
        deserializer: Reads the prediction; default: it is bytes.
    """
    writer, reader = serializer or _Bytes(), deserializer or _Bytes()
    reply = post_invocations(
        target=target,
        model_dir=model_dir,
        data=writer.serialize(data),
        headers={"Content-Type": writer.CONTENT_TYPE, "Accept": ", ".join(reader.ACCEPT)},
    )
    return reader.deserialize(io.BytesIO(reply.data), content_type=reply.content_type or "")


def plugin_manager() -> HookManager:
    """Return the hooks of all installed plug-ins; a test can register more, and must unregister them again."""
    return installed()


def plugin_is_registered(plugin: type | ModuleType) -> bool:
    """Tell whether a plug-in is installed: whether an entry point names it.

        [project.entry-points.inference_server]
        shipping_forecast = "shipping_forecast"

    Args:
        plugin: The module, or the class, with the hooks.
    """
    return plugin_manager().is_registered(plugin)


def hookimpl_is_valid(function: Callable[..., Any]) -> bool:
    """Tell whether a function is a hook of an installed plug-in, and is called as one.

    Args:
        function: The function.
    """
    hook = getattr(plugin_manager().hook, function.__name__, None)
    return hook is not None and function in (found.function for found in hook.get_hookimpls())


class _Bytes:
    """Passes bytes through."""

    CONTENT_TYPE = "application/octet-stream"
    ACCEPT = ("application/octet-stream",)

    def serialize(self, data: bytes) -> bytes:
        return data

    def deserialize(self, stream: Any, content_type: str) -> Any:
        with stream:
            return stream.read()
