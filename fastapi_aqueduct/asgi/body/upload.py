"""Streams the body of a request into shared memory: the copy made here is the only one."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from ...flow import BlockWriter, Flow
from .form_parts import FormParts
from .guards import Guards
from .gunzip import Gunzip
from .head import BodyHead
from .limits import BodyRules, check_size
from .multipart import Multipart
from .parts import Received, UploadPart
from .raw import RawBody
from .read_timeout import ReadTimeout
from .sink import Sink
from .stream import stream_body


class UploadReader:
    """Reads an upload: a multipart form part by part, any other body as it is.

    Args:
        request: Its body must not have been read.
        head: The headers, as `judge_head` returns them.
        parts: The uploads by their names, which are those of the parts of a form.
        rules: What the endpoint accepts.
    """

    def __init__(self, request: Request, head: BodyHead, parts: Mapping[str, UploadPart], rules: BodyRules) -> None:
        self._request = request
        self._head = head
        self._parts = parts
        self._rules = rules

    async def receive(self, flow: Flow) -> Received:
        """Read the body.

        Args:
            flow: Whose shared memory to use.

        Raises:
            BodyError: The body is too large, too slow, not as long as announced or malformed.
            Overloaded: There was no memory in time, or too much is arriving already.
            ClientDisconnect: The client went away.

        However it ends, also by cancellation, the memory of an upload that is not complete is free again.
        """
        head, rules = self._head, self._rules
        if head.size == 0:
            return Received()
        max_size = min(head.max_size, flow.memory_limit)
        check_size(head.announced, max_size)
        limits = rules.limits_of(self._request.scope)
        with ReadTimeout(limits) as timeout, flow.receive(head.size, max_size, rules.wait(), limits.cap) as writer:
            writer.arrival.on_abandon(timeout.refuse)
            received, sink = self._last_stages(writer)
            if head.is_compressed:
                sink = Gunzip(max_size, sink)
            await stream_body(self._request, Guards(head.announced, max_size, timeout, sink))
            return received

    def _last_stages(self, writer: BlockWriter) -> tuple[Received, Sink]:
        head = self._head
        if head.boundary is not None:
            form = FormParts(self._parts, self._rules.media_types, writer)
            return form.received, Multipart(head.boundary, form)
        (part,) = self._parts.values()
        writer.begin()
        raw = RawBody(part, head.filename, head.content_type, writer)
        return raw.received, raw
