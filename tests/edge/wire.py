"""Connections that show what passes over the wire: bodies in pieces, interim answers, streams that are reset."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import httpx

from ..support import DEADLINE


class Exchange(ABC):
    """A request that is sent piece by piece, and its answer.

    Attributes:
        interim: Statuses of the interim answers, such as 100, that came before the answer.
    """

    def __init__(self) -> None:
        self.interim: list[int] = []

    @abstractmethod
    async def send(self, data: bytes = b"", *, is_last: bool = False) -> None:
        """Send more of the body."""

    @abstractmethod
    async def answer(self) -> httpx.Response:
        """Wait for the whole answer."""

    @abstractmethod
    async def give_up(self) -> None:
        """Send no more of the body; with HTTP/1.1 that is the end of the connection."""


class Connection(ABC):
    """A connection to a service.

    Args:
        url: Of the service.
    """

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.close()
        # It may be broken, which is no news at the end.
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    @abstractmethod
    async def begin(self, method: str, path: str, headers: Mapping[str, str], *, has_body: bool) -> Exchange:
        """Send the head of a request."""

    async def get(self, path: str) -> httpx.Response:
        """Ask for something."""
        exchange = await self.begin("GET", path, {}, has_body=False)
        return await exchange.answer()

    async def post(self, path: str, **headers: str) -> Exchange:
        """Begin a request with a body; without a Content-Length it is sent in chunks."""
        names = {name: name.replace("_", "-") for name in headers}
        return await self.begin("POST", path, {names[name]: headers[name] for name in headers}, has_body=True)


class Connection1(Connection):
    """HTTP/1.1: one exchange after the other."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._parser = h11.Connection(h11.CLIENT)

    async def begin(self, method: str, path: str, headers: Mapping[str, str], *, has_body: bool) -> Exchange1:
        if self._parser.our_state is not h11.IDLE:
            self._parser.start_next_cycle()
        framing = {"transfer-encoding": "chunked"} if has_body and "content-length" not in headers else {}
        request = h11.Request(method=method, target=path, headers=[*{"host": "test", **framing, **headers}.items()])
        exchange = Exchange1(self._parser, self._reader, self._writer)
        await exchange.write(request)
        if not has_body:
            await exchange.send(is_last=True)
        return exchange

    async def closes(self) -> bool:
        """Tell whether the server closes the connection now that it has answered."""
        try:
            return not await asyncio.wait_for(self._reader.read(1), DEADLINE)
        except ConnectionError:
            return True


class Exchange1(Exchange):
    """A request in HTTP/1.1.

    Args:
        parser: Knows the state of the connection.
        reader: The connection.
        writer: The connection.
    """

    def __init__(self, parser: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._parser = parser
        self._reader = reader
        self._writer = writer
        self._head: h11.Response | None = None
        self._content = bytearray()
        self._is_over = False

    async def send(self, data: bytes = b"", *, is_last: bool = False) -> None:
        if data:
            await self.write(h11.Data(data=data))
        if is_last:
            await self.write(h11.EndOfMessage())

    async def write(self, event: Any) -> None:
        """Send an event of the protocol."""
        self._writer.write(self._parser.send(event) or b"")
        await self._writer.drain()

    async def is_asked(self) -> bool:
        """Wait until the server asks for the body, or answers without it."""
        await self._receive()
        return self._head is None

    async def answer(self) -> httpx.Response:
        while not self._is_over:
            await self._receive()
        assert self._head is not None
        return httpx.Response(self._head.status_code, headers=list(self._head.headers), content=bytes(self._content))

    async def give_up(self) -> None:
        self._writer.close()

    async def _receive(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(await self._reader.read(1 << 16))
        if isinstance(event, h11.InformationalResponse):
            self.interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            self._head = event
        elif isinstance(event, h11.Data):
            self._content += event.data
        else:
            self._is_over = True


class Connection2(Connection):
    """HTTP/2, without TLS and without asking first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._parser = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._exchanges: dict[int, _Exchange2] = {}
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._parser.initiate_connection()
        await self.flush()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._listener.cancel()
        await asyncio.wait([self._listener])
        await super().__aexit__(*exc_info)

    async def begin(self, method: str, path: str, headers: Mapping[str, str], *, has_body: bool) -> Exchange:
        number = self._parser.get_next_available_stream_id()
        pseudo = {":method": method, ":path": path, ":scheme": "http", ":authority": "test"}
        exchange = self._exchanges[number] = _Exchange2(self, self._parser, number)
        self._parser.send_headers(number, [*pseudo.items(), *headers.items()], end_stream=not has_body)
        await self.flush()
        return exchange

    async def flush(self) -> None:
        """Send what the parser has to say."""
        self._writer.write(self._parser.data_to_send())
        await self._writer.drain()

    @contextlib.asynccontextmanager
    async def until(self, condition: Any) -> AsyncIterator[None]:
        """Wait until something that came has made a condition true."""
        async with self._changed, asyncio.timeout(DEADLINE):
            await self._changed.wait_for(condition)
            yield

    async def _listen(self) -> None:
        while data := await self._reader.read(1 << 16):
            async with self._changed:
                for event in self._parser.receive_data(data):
                    self._take(event)
                await self.flush()
                self._changed.notify_all()

    def _take(self, event: Any) -> None:
        exchange = self._exchanges.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.DataReceived):
            self._parser.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if exchange is not None:
            exchange.take(event)


class _Exchange2(Exchange):
    def __init__(self, connection: Connection2, parser: h2.connection.H2Connection, number: int) -> None:
        super().__init__()
        self._connection = connection
        self._parser = parser
        self._number = number
        self._headers: list[tuple[str, str]] = []
        self._content = bytearray()
        self._is_over = False

    async def send(self, data: bytes = b"", *, is_last: bool = False) -> None:
        while data:
            async with self._connection.until(lambda: self._parser.local_flow_control_window(self._number)):
                size = min(self._parser.local_flow_control_window(self._number), self._parser.max_outbound_frame_size)
                self._parser.send_data(self._number, data[:size])
                data = data[size:]
                await self._connection.flush()
        if is_last:
            self._parser.end_stream(self._number)
            await self._connection.flush()

    async def give_up(self) -> None:
        # The server may have said before that it does not want the rest.
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._parser.reset_stream(self._number)
        await self._connection.flush()

    async def answer(self) -> httpx.Response:
        async with self._connection.until(lambda: self._is_over):
            headers = dict(self._headers)
            return httpx.Response(int(headers.pop(":status")), headers=headers, content=bytes(self._content))

    def take(self, event: Any) -> None:
        """Handle an event of this request."""
        if isinstance(event, h2.events.ResponseReceived):
            self._headers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            self._content += event.data
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self._is_over = True


CONNECTIONS: dict[str, type[Connection]] = {"http1": Connection1, "http2": Connection2}
"""By the names of their protocols."""
