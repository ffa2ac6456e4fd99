"""Bodies that are made to keep the event loop busy."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import socket
import urllib.request
from dataclasses import dataclass
from itertools import chain, repeat

from .processes import MIB
from .report import Promise, Report, Series
from .subject import Subject

ROUNDS = int(os.environ.get("ROUNDS", "5"))
MOST = 4
LONGEST = 50
BOUNDARY = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
ORDINARY = "an ordinary upload"


@dataclass(frozen=True)
class Shape:
    """A way to write a body of a mebibyte.

    Attributes:
        name: As it is shown.
        floor: The path where FastAPI alone takes it.
        body: What is sent.
        headers: Beside the usual ones.
    """

    name: str
    floor: str
    body: bytes
    headers: str = ""

    def send(self, port: int, path: str) -> None:
        """Send it, and wait for the answer, whatever it is."""
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{self.headers}\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            # One that is refused may be answered, and cut off, before all of it was sent.
            with contextlib.suppress(ConnectionError):
                connection.sendall(head.encode() + self.body)
                while connection.recv(1 << 16):
                    pass


def measure() -> Report:
    """Each shape in turns with FastAPI alone, and with an ordinary upload."""
    shapes = make_shapes()
    names = [f"{shape.name}, {subject}" for shape in shapes for subject in ("fastapi_aqueduct", "FastAPI alone")]
    costs: dict[str, list[float]] = {name: [] for name in names}
    turns: dict[str, list[float]] = {name: [] for name in names}
    with Subject("-m", f"{__package__}.subjects.shapes_server") as server:
        port: int = server.read()
        for number in range(ROUNDS + 1):
            for shape in shapes:
                for subject, path in (("fastapi_aqueduct", "/ours"), ("FastAPI alone", shape.floor)):
                    total, longest = _cost(port, shape, path)
                    if number:  # the first is for warming up
                        costs[f"{shape.name}, {subject}"].append(total * 1000)
                        turns[f"{shape.name}, {subject}"].append(longest * 1000)
    cost = {name: Series(name, values, 1, "ms of the processor per MiB") for name, values in costs.items()}
    unit = "ms of the processor, longest turn of the loop"
    turn = {name: Series(name, values, 1, unit) for name, values in turns.items()}
    return Report(
        title="shapes: bodies of 1 MiB that are made to keep the event loop busy",
        notes=[
            "the time of the thread of the event loop, without that of workers",
            "FastAPI alone: request.body(), an UploadFile, or gzip.decompress() of the body",
            "limit: four times what FastAPI alone needs for the same, or what an ordinary upload needs if that is more",
        ],
        rows=[*cost.values(), *turn.values()],
        promises=list(chain.from_iterable(_promises(shape.name, cost, turn) for shape in shapes)),
    )


def _promises(name: str, cost: dict[str, Series], turn: dict[str, Series]) -> list[Promise]:
    ours, floor = f"{name}, fastapi_aqueduct", f"{name}, FastAPI alone"
    larger = map(max, cost[floor].values, cost[f"{ORDINARY}, fastapi_aqueduct"].values)
    limit = Series("", list(larger))
    return [
        Promise(cost[ours].over(limit, f"{name}: processor time over that of FastAPI or of an ordinary upload"), MOST),
        Promise(Series(f"{name}: ms of the longest turn", turn[ours].values, 1), LONGEST),
    ]


def _cost(port: int, shape: Shape, path: str) -> tuple[float, float]:
    _ask(port)
    shape.send(port, path)
    return _ask(port)


def _ask(port: int) -> tuple[float, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/turns") as answer:
        total, longest = json.loads(answer.read())
    return total, longest


def make_shapes() -> list[Shape]:
    """Make them: the ordinary upload is the first."""
    content = random.Random(1).randbytes(MIB)
    image = b'Content-Disposition: form-data; name="body"; filename="a"\r\n\r\n'
    other = b'Content-Disposition: form-data; name="other"'
    semicolons = b"%b%b\r\n\r\n" % (other, b";" * 4000)
    quotes = b"%b%b\r\n\r\n" % (other, b';"' * 2000)
    return [
        Shape(ORDINARY, "/body", content, _length(content)),
        _form("an ordinary form", [image + content]),
        _form("a form of 1,000 parts", [image + b"x", *repeat(other + b"\r\n\r\n" + bytes(900), 999)]),
        _form("a form of 1,000 parts without content", [image + b"x", *repeat(other + b"\r\n\r\n", 999)]),
        _form("part headers full of semicolons", [image + b"x", *repeat(semicolons, 250)]),
        _form("part headers full of quotation marks", [image + b"x", *repeat(quotes, 250)]),
        _form("a form full of what looks like delimiters", [image + b"\r\n--%b" % BOUNDARY[:-1] * (MIB // 40)]),
        _form("a form full of delimiters that go on", [image + b"\r\n--%bx\r\n\r\n" % BOUNDARY * (MIB // 46)]),
        _chunked("chunks of 1 byte", "/body", content),
        _chunked("chunks of 16 bytes", "/body", content, 16),
        _chunked_form("a form in chunks of 1 byte", [image + content]),
        _gzip("an ordinary gzip stream", gzip.compress(content)),
        _gzip("a gzip stream of zeros", gzip.compress(bytes(MIB))),
        _gzip("empty gzip members", gzip.compress(b"") * (MIB // 20)),
        _gzip("gzip members of 1 KiB", b"".join(gzip.compress(content[at : at + 1024]) for at in range(0, MIB, 1024))),
        _gzip("gzip blocks without content", _empty_blocks()),
    ]


def _length(body: bytes) -> str:
    return f"Content-Length: {len(body)}\r\n"


def _form(name: str, parts: list[bytes]) -> Shape:
    body = _joined(parts)
    return Shape(name, "/form", body, _form_type() + _length(body))


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, part) for part in parts) + b"--%b--\r\n" % BOUNDARY


def _form_type() -> str:
    return f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"


def _chunked(name: str, floor: str, body: bytes, size: int = 1, headers: str = "") -> Shape:
    chunks = (b"%x\r\n%b\r\n" % (size, body[at : at + size]) for at in range(0, len(body) - size + 1, size))
    return Shape(name, floor, b"".join(chunks) + b"0\r\n\r\n", "Transfer-Encoding: chunked\r\n" + headers)


def _chunked_form(name: str, parts: list[bytes]) -> Shape:
    return _chunked(name, "/form", _joined(parts), headers=_form_type())


def _gzip(name: str, body: bytes) -> Shape:
    return Shape(name, "/gzip", body, "Content-Encoding: gzip\r\n" + _length(body))


def _empty_blocks() -> bytes:
    # A stored block without content: five bytes, of which the second half is the complement of the first.
    head, tail = b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x03\0" + bytes(8)
    return head + b"\0\0\0\xff\xff" * (MIB // 5) + tail


if __name__ == "__main__":
    print(measure())
