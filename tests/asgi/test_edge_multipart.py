"""The parser of multipart forms, with Starlette's as the measure of what is valid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fastapi_aqueduct.asgi.body.multipart import MAX_PARTS, Event, MultipartForm, PartBegin, PartData, boundary_of
from fastapi_aqueduct.asgi.errors import MalformedBody

Part = tuple[str, str | None, str | None, bytes]
"""Name, name of the file, type and content of a part."""


def feed(form: MultipartForm, data: bytes) -> list[Event]:
    """Feed a piece to a form, turn after turn."""
    events: list[Event] = []
    start = 0
    while start < len(data):
        more, start = form.feed(data, start)
        events += more
    return events


def ours(body: bytes, boundary: bytes, cuts: list[int], needs_end: bool = True) -> list[Part]:
    form = MultipartForm(boundary)
    parts: list[Part] = []
    begin, content = None, bytearray()
    position = 0
    for cut in [*cuts, len(body)]:
        for event in feed(form, body[position : position + cut]):
            if isinstance(event, PartBegin):
                begin, content = event, bytearray()
            elif isinstance(event, PartData):
                content += event.view
            else:
                assert begin is not None
                parts.append((begin.name, begin.filename, begin.content_type, bytes(content)))
        position += cut
    if needs_end:
        form.finish()
    return parts


def starlettes(body: bytes, boundary: bytes, cuts: list[int]) -> list[Part]:
    async def stream() -> AsyncGenerator[bytes, None]:
        position = 0
        for cut in [*cuts, len(body)]:
            yield body[position : position + cut]
            position += cut

    async def parse() -> list[Part]:
        headers = Headers({"content-type": f"multipart/form-data; boundary={boundary.decode()}"})
        parser = MultiPartParser(headers, stream())
        try:
            form = await parser.parse()
            parts: list[Part] = []
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    parts.append((name, value.filename, value.content_type, await value.read()))
                else:
                    parts.append((name, None, None, value.encode()))
            return parts
        finally:
            # Also those of parts that were cut off, which Starlette leaves to the garbage collector.
            for file in parser._files_to_close_on_error:
                file.close()

    # Not `asyncio.run`, which would take the event loop of the tests away.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(parse())
    finally:
        loop.close()


def outcome(parse: Any, *arguments: Any) -> list[Part] | None:
    try:
        parts: list[Part] = parse(*arguments)
    except (MalformedBody, MultiPartException):
        return None
    return parts


cut_lists = st.lists(st.integers(1, 60), max_size=30)
contents = st.one_of(
    st.binary(max_size=200),
    # What looks like a boundary, or like its beginning.
    st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n--b", b"b", b"--b", b"x"]), max_size=12).map(
        b"".join
    ),
)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\\;%'), max_size=8)


@given(st.lists(st.tuples(names, st.none() | names, contents), max_size=5), cut_lists)
def test_valid_forms(given_parts: list[tuple[str, str | None, bytes]], cuts: list[int]) -> None:
    """Parts come out as they went in, wherever the pieces end; duplicate names and empty contents as well."""
    boundary = b"boundary-that-is-long"
    assume(not any(boundary in content for _, _, content in given_parts))
    body = b""
    for name, filename, content in given_parts:
        options = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        head = f"--{boundary.decode()}\r\nContent-Disposition: form-data; {options}\r\n\r\n".encode()
        body += head + content + b"\r\n"
    body += b"--" + boundary + b"--\r\n"
    found = outcome(ours, body, boundary, cuts)
    expected = [(name, filename, None, content) for name, filename, content in given_parts]
    if given_parts:
        assert found == expected
    files = [(name, filename, content) for name, filename, _, content in found or [] if filename is not None]
    theirs = outcome(starlettes, body, boundary, cuts)
    if given_parts:
        assert theirs is not None
        assert files == [(name, filename, content) for name, filename, _, content in theirs if filename is not None]


FRAGMENTS = [
    b"--b",
    b"--b\r\n",
    b"--b--",
    b"\r\n",
    b"\n",
    b"\r",
    b"--",
    b"-",
    b"b",
    b":",
    b";",
    b'"',
    b" ",
    b"x",
    b'Content-Disposition: form-data; name="a"\r\n',
    b'Content-Disposition: form-data; name="a"; filename="f"\r\n',
    b"Content-Disposition: form-data\r\n",
    b"content-disposition:form-data;name=a\r\n",
    b"Content-Type: image/png\r\n",
    b"X-Long: " + b"x" * 5000 + b"\r\n",
    b"X-Many: 1\r\n" * 9,
    b"\r\ncontent\r\n",
    b"\0\xff\xfe",
]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=25).map(b"".join), cut_lists)
def test_what_starlette_refuses_is_refused(body: bytes, cuts: list[int]) -> None:
    """And nothing else, but for forms that end early; what is taken has the same parts."""
    body = b"--b\r\n" + body
    found, theirs = outcome(ours, body, b"b", cuts, False), outcome(starlettes, body, b"b", cuts)
    if found is None or theirs is None:
        assert found is theirs
        return
    assert [(name, content) for name, filename, _, content in found if filename is not None] == [
        (name, content) for name, filename, _, content in theirs if filename is not None
    ]
    assert [name for name, *_ in found] == [name for name, *_ in theirs]


@given(st.binary(max_size=300), cut_lists, cut_lists)
def test_the_cuts_do_not_matter(body: bytes, cuts: list[int], others: list[int]) -> None:
    """The same body is the same form however it came."""
    assert outcome(ours, b"--b\r\n" + body, b"b", cuts) == outcome(ours, b"--b\r\n" + body, b"b", others)


FORM = httpx.Request("POST", "http://test/", files={"image": b"data", "other": b"x"})
BOUNDARY = boundary_of(FORM.headers["content-type"]) or b""


@given(st.integers(0, len(FORM.read()) - 3), cut_lists)
def test_a_form_that_ends_early(end: int, cuts: list[int]) -> None:
    """It is not taken for a complete one, wherever it ends."""
    assert outcome(ours, FORM.read()[:end], BOUNDARY, cuts) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n' + b"X: y\r\n" * 8 + b"\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\nX: ' + b"y" * 5000 + b"\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * (MAX_PARTS + 1) + b"--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--c--\r\n',
    ],
    ids=["empty", "nothing", "many headers", "a long header", "no disposition", "no name", "many parts", "no end"],
)
def test_limits_and_mistakes(body: bytes) -> None:
    """They are the client's fault."""
    with pytest.raises(MalformedBody):
        ours(body, b"b", [])


def test_a_boundary_that_cannot_be_used() -> None:
    """It is refused before anything is read."""
    with pytest.raises(MalformedBody):
        MultipartForm(b"b" * 300)
    with pytest.raises(MalformedBody):
        boundary_of("multipart/form-data")
    assert boundary_of("multipart/mixed; boundary=b") is None
    assert boundary_of('multipart/form-data; boundary="a b"') == b"a b"


def test_pieces_of_one_chunk_are_joined() -> None:
    """The parser stops at everything that looks like a boundary; a picture is full of that."""
    form = MultipartForm(b"b")
    content = b"\r\n-" * 10_000
    events = feed(form, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + content + b"x\r\n--b--\r\n")
    assert sum(isinstance(event, PartData) for event in events) < 10


class CountingForm(MultipartForm):
    """Counts what the parser underneath gets."""

    pieces = 0

    def _parse(self, data: bytes | bytearray) -> None:
        self.pieces += 1
        super()._parse(data)


HEAD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [
        HEAD + b"\r\n\r\n" * 10_000 + b"\r\n--b--\r\n",
        HEAD + b"\r\n--bx\r\n\r\n" * 10_000 + b"\r\n--b--\r\n",
        HEAD + b"x\r\n--b--" + b"\r\n\r\n" * 10_000,
        b"\r\n\r\n" * 10_000 + HEAD + b"x\r\n--b--\r\n",
    ],
    ids=["content", "what looks like delimiters", "epilogue", "preamble"],
)
def test_blank_lines_do_not_cut_a_form_to_pieces(body: bytes) -> None:
    """Who sends nothing else would keep the event loop busy for a second with a megabyte."""
    form = CountingForm(b"b")
    feed(form, body)
    form.finish()
    assert form.pieces < 10


def test_a_nested_form_is_content() -> None:
    """The content of a part is not parsed."""
    inner = b'--c\r\nContent-Disposition: form-data; name="n"\r\n\r\nx\r\n--c--\r\n'
    head = b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n'
    assert ours(head + inner + b"\r\n--b--\r\n", b"b", [7] * 30) == [("a", None, "multipart/mixed; boundary=c", inner)]
