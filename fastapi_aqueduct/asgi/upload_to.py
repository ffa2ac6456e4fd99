"""An upload as a dependency of FastAPI, for endpoints that call a function in workers.

Example:
        @app.post("/thumbnail")
        async def thumbnail(image: Annotated[memoryview, UploadTo(resize, media_type="image/*")]) -> SharedResponse:
            return SharedResponse(await resize(image, width=64), media_type="image/png")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin  # noqa: F401

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError

from ..exceptions import InvalidArgument, got
from ..flow import Flow
from ..params import UploadInfo
from ..worker_function import InWorkers, flow_of
from .binding.uploads import BodyBinding, Uploads, body_bindings
from .body.heap import HeapGuard
from .body.limits import checked_media_types
from .body.parts import UploadPart
from .dependencies import RESERVE_TIMEOUT, BodyDependency, GivenFlow, get_request
from .settings import UploadLimits  # noqa: F401

UNNAMED = "file"
"""The name of the upload of a dependency that is not in the signature of an endpoint."""

_WITH_INFO = tuple[memoryview, UploadInfo]


# Literal and UploadLimits are in the annotations of its constructor, which has the fields of `BodyDependency` as well.
@dataclass(frozen=True)
class UploadTo(BodyDependency):
    """Streams the body of a request into shared memory: ``image: Annotated[memoryview, UploadTo(resize)]``.

    For ordinary endpoints that call a function in workers (`in_worker`), or process a task themselves: the bytes are
    in the shared memory of its flow already, and the call refers to them. The body, or the part of a multipart form
    that has the name of the parameter, is a read-only `memoryview` of bytes; ``list[memoryview]`` gets all parts of
    that name, and ``memoryview | None`` may be None. ``tuple[memoryview, UploadInfo]`` in the place of ``memoryview``
    is the upload and what is known about it: ``view, info = image``. The memory is released when the request ends, or
    earlier when there is no reference to the view any more.

    An endpoint has one such parameter and no other one that comes from the body. For several uploads, or fields beside
    them, use a task with `flow_endpoint`. The body is read before FastAPI validates the endpoint's own parameters.

    Attributes:
        target: The function, a pool (`ModelPool`), or a flow.
        media_type: As for `flow_endpoint`.
        max_body_size: As for `flow_endpoint`.
        accept_gzip: As for `flow_endpoint`.
        upload_limits: As for `flow_endpoint`.
        raw: Whether it gets the body as it is, whatever its Content-Type, as a `RawUpload` does.
        sha256: Whether `UploadInfo.sha256` is taken, as `Sha256` asks for it in a task.

    Raises:
        InvalidArgument: ``target`` is neither, or the annotation names another type, or one without the `UploadInfo`
            that ``sha256`` needs.
        ConfigurationError: A name is not a media type.
    """

    target: InWorkers | Flow
    raw: bool = field(default=False, kw_only=True)
    sha256: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.target, InWorkers | Flow):
            raise InvalidArgument(f"UploadTo needs a function of in_worker, a pool or a flow, {got(self.target)}")
        checked_media_types(self.media_type)
        if self.dependency is not None and not hasattr(self.dependency, "__aqueduct__"):
            object.__setattr__(self, "dependency", self._receiver(self.dependency))

    def _receiver(self, annotation: Any) -> Callable[..., Any]:
        target, flow = self.target, flow_of(self.target)

        def timeout() -> float:
            return target.timeout_sec if isinstance(target, InWorkers) else RESERVE_TIMEOUT

        rules = self._rules(timeout)
        part, has_info = _part_of(annotation)
        if self.sha256 and not has_info:
            raise InvalidArgument(
                f"UploadTo(sha256=True) puts the digest into an UploadInfo, and {annotation!r} has none: write "
                "Annotated[tuple[memoryview, UploadInfo], UploadTo(..., sha256=True)]"
            )
        uploads = Uploads({UNNAMED: part._replace(is_raw=self.raw, is_hashed=self.sha256)}, rules)
        binding = BodyBinding(uploads, HeapGuard(rules, flow), is_whole_body=True)

        async def receive(request: Request, flow: Flow) -> Any:
            uploads = next(body_bindings(request.scope["route"]), binding).uploads
            received = await uploads.receive(request, flow, 0, timeout())
            if errors := uploads.errors(received):
                raise RequestValidationError(errors)
            for name, views in received.uploads.items():
                found = list(zip(views, received.infos[name], strict=True)) if has_info else views
                return uploads.given(name, found)
            return None

        # Resolved here, as the flow is a value of this call.
        receive.__annotations__ = {
            "request": Annotated[Request, Depends(get_request)],
            "flow": Annotated[Flow, Depends(GivenFlow(flow))],
        }
        receive.__aqueduct__ = binding  # type: ignore[attr-defined]
        return receive


def _part_of(annotation: Any) -> tuple[UploadPart, bool]:
    """Return the upload that a parameter gets, and whether with what is known about it."""
    kinds = set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    kind = (kinds - {NoneType}).pop()
    is_list = get_origin(kind) is list
    given = get_args(kind)[0] if is_list else kind
    if len(kinds - {NoneType}) > 1 or given not in (memoryview, _WITH_INFO):
        raise InvalidArgument(
            "UploadTo gives a memoryview or a tuple[memoryview, UploadInfo], `... | None` or a list of them, and not "
            f"{annotation!r}"
        )
    return UploadPart(UNNAMED, NoneType not in kinds, is_list, (), None), given == _WITH_INFO
