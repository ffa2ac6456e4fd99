"""Uploads as tasks declare them and as clients send them."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, UploadFile
from hypothesis import assume, given
from hypothesis import strategies as st

from fastapi_aqueduct import (
    Aqueduct,
    BaseTask,
    ConfigurationError,
    Flow,
    PartLimits,
    Upload,
    UploadInfo,
    flow_endpoint,
)
from fastapi_aqueduct.asgi.body.disposition import parse_disposition
from fastapi_aqueduct.testing import client

from ..asgi.support import serving, taken
from ..support import blocks, eventually
from .uploads import Album, Attachments, Count, Look, Maybe, Measure, Passport, Photo


def make_app(flow: Flow, task_type: Any, answer: str, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    async def endpoint(task: Any) -> Any:
        return getattr(task, answer)

    endpoint.__annotations__["task"] = task_type
    app.post("/")(flow_endpoint(flow, timeout_sec=30, **options)(endpoint))
    return app


BIG = b"\1" * 100_000
PICTURES: list[Any] = [
    ("pictures", ("one.png", BIG, "image/png")),
    ("pictures", ("two.png", b"\2\2", "image/png")),
    ("pictures", ("three.bin", b"\3")),
]
SENT = [["one.png", "image/png", 100_000], ["two.png", "image/png", 2], ["three.bin", "application/octet-stream", 1]]


async def test_any_number_of_files_under_one_name() -> None:
    """In their order, each a block of its own, beside other uploads, fields and parameters."""
    flow = Flow(Count())
    async with serving(make_app(flow, Album, "report")) as http:
        files = [*PICTURES[:2], ("cover", ("cover.png", b"\7" * 5)), PICTURES[2]]
        response = await http.post("/?quality=3", files=files, data={"title": "T"})
        assert response.json() == [[100_000, 4, 3], SENT, ["memoryview True"], 35, "T", 3]
        response = await http.post("/", files=[PICTURES[1]], data={"title": "T"})
        assert response.json() == [[4], [SENT[1]], ["memoryview True"], None, "T", 1]
        many = [("pictures", (f"{number}.png", bytes([number]))) for number in range(200)]
        response = await http.post("/", files=many, data={"title": "T"})
        assert response.json()[0] == list(range(200))
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_no_file_under_the_name() -> None:
    """It is missing where one must come, and an empty list where the default says so."""
    album, attachments = Flow(Count()), Flow(Measure())
    async with client(make_app(album, Album, "report")) as http:
        response = await http.post("/", files={"cover": ("c", b"x")}, data={"title": "T"})
        assert response.json()["detail"] == [
            {"type": "missing", "loc": ["body", "pictures"], "msg": "Field required", "input": None}
        ]
    async with client(make_app(attachments, Attachments, "sizes")) as http:
        assert (await http.post("/")).json() == []
        assert (await http.post("/", files=[("files", ("a", b"x")), ("files", ("b", b"xy"))])).json() == [1, 2]
        assert (await http.post("/", content=b"raw")).json() == [3]
        await eventually(lambda: blocks(attachments) == taken(attachments) == 0)


PHOTO = ("a.png", b"x" * 1000, "image/png")
PAPERS = [("papers", ("a.pdf", b"x" * 2000, "application/pdf")), ("papers", ("b.txt", b"xy", "text/plain"))]
LIMITED: list[tuple[list[Any], int, str]] = [
    ([("photo", PHOTO)], 200, "[1000]"),
    ([("photo", PHOTO), *PAPERS], 200, "[1000,2000,2]"),
    ([("photo", ("a.pdf", b"x", "application/pdf"))], 415, "The upload photo must be of type image/*, not"),
    (
        [("photo", PHOTO), ("papers", ("a.png", b"x", "image/png"))],
        415,
        "The upload papers must be of type application/pdf, text/plain, not image/png.",
    ),
    ([("photo", ("a.png", b"x" * 1001, "image/png"))], 413, "photo may have at most 1000 bytes."),
    (
        [("photo", PHOTO), PAPERS[1], ("papers", ("a", b"x" * 300_000, "text/plain"))],
        413,
        "papers may have at most 2000 bytes.",
    ),
]


async def test_limits_of_each_part() -> None:
    """On type and size; on a list they count for each file."""
    flow = Flow(Look())
    async with client(make_app(flow, Passport, "sizes")) as http:
        for files, status, words in LIMITED:
            response = await http.post("/", files=files)
            assert (response.status_code, words in response.text) == (status, True), response.text
            await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def test_limits_of_a_raw_body() -> None:
    """They are those of the only upload; the endpoint's own type counts where the upload names none."""
    flow = Flow(Look())
    async with client(make_app(flow, Photo, "seen", media_type="text/*")) as http:
        png = {"content-type": "image/png"}
        assert (await http.post("/", content=b"x" * 1000, headers=png)).json()[1] == [None, "image/png", 1000]
        assert (await http.post("/", content=b"x" * 1001, headers=png)).status_code == 413
        assert (await http.post("/", content=pieces(b"x" * 600, 2), headers=png)).status_code == 413
        response = await http.post("/", content=b"x", headers={"content-type": "text/plain"})
        assert (response.status_code, response.headers["accept"]) == (415, "image/png, image/jpeg")
        await eventually(lambda: blocks(flow) == taken(flow) == 0)


async def pieces(piece: bytes, count: int) -> Any:
    for _ in range(count):
        yield piece


async def test_the_content_type_that_curl_sends() -> None:
    """It counts as a raw body; where types are named the answer says what to add."""
    open_, closed = Flow(Look()), Flow(Look())
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with client(make_app(open_, Maybe, "seen")) as http:
        assert (await http.post("/", content=b"a=b", headers=headers)).json()[0] == 3
    async with client(make_app(closed, Maybe, "seen", media_type=["image/*", "text/plain"])) as http:
        response = await http.post("/", content=b"a=b", headers=headers)
        assert (response.status_code, response.json()["detail"]) == (
            415,
            "The upload note must be of type image/*, text/plain, not application/x-www-form-urlencoded. That is what "
            "curl --data-binary says by itself; add -H 'Content-Type: image/...'.",
        )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_itself(tmp_path: Path) -> None:
    """It sends a raw body, a form of several files, and a file with a quotation mark in its name."""
    flow = Flow(Look())
    (tmp_path / 'a"b.txt').write_bytes(b"abc")
    async with serving(make_app(flow, Maybe, "seen")) as http:
        for arguments, name, kind in (
            (["--data-binary", '@a"b.txt'], None, "application/x-www-form-urlencoded"),
            (["-F", 'note=@"a\\"b.txt";type=text/plain'], 'a"b.txt', "text/plain"),
        ):
            curl = await asyncio.create_subprocess_exec(
                "curl", "-s", *arguments, f"{http.base_url}/", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await curl.communicate()
            assert json.loads(output) == [3, [name, kind, 3]]


# Empty files, and what is no file


def part(name: str, rest: str = "", content: bytes = b"") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + content + b"\r\n"


FORM = {"content-type": "multipart/form-data; boundary=b"}


async def test_an_empty_file() -> None:
    """It is a file where it need not have content, and refused where it must."""
    flow, photos, albums = Flow(Look()), Flow(Look()), Flow(Count())
    async with client(make_app(flow, Maybe, "seen")) as http:
        assert (await http.post("/", files={"note": ("a.txt", b"", "text/plain")})).json() == [
            0,
            ["a.txt", "text/plain", 0],
        ]
        await eventually(lambda: blocks(flow) == taken(flow) == 0)
    empty = {"type": "value_error", "msg": "Value error, the file is empty", "input": None}
    async with client(make_app(photos, Photo, "seen")) as http:
        response = await http.post("/", files={"photo": ("a.png", b"", "image/png")})
        assert (response.status_code, response.json()["detail"]) == (422, [{**empty, "loc": ["body", "photo"]}])
    async with client(make_app(albums, Album, "report")) as http:
        files = [PICTURES[1], ("pictures", ("none.png", b""))]
        response = await http.post("/", files=files, data={"title": "T"})
        assert response.json()["detail"] == [{**empty, "loc": ["body", "pictures", 1]}]


async def test_a_part_without_a_file_name() -> None:
    """It is no file: nothing where it is empty, as a browser's form in which none was chosen, else a mistake."""
    flow, photos = Flow(Look()), Flow(Look())
    wrong = {
        "type": "value_error",
        "loc": ["body", "note"],
        "msg": "Value error, a part of a form without a file name is no file",
        "input": None,
    }
    async with client(make_app(flow, Maybe, "seen")) as http:
        for rest in ("", '; filename=""'):
            response = await http.post("/", content=part("note", rest) + b"--b--\r\n", headers=FORM)
            assert response.json() == [None, None]
            body = part("note", rest, b"x" * 3_000_000) + b"--b--\r\n"
            response = await http.post("/", content=body, headers=FORM)
            assert (response.status_code, response.json()["detail"]) == (422, [wrong])
            await eventually(lambda: blocks(flow) == taken(flow) == 0)
    async with client(make_app(photos, Photo, "seen")) as http:
        response = await http.post("/", content=part("photo", '; filename=""') + b"--b--\r\n", headers=FORM)
        assert response.json()["detail"][0]["type"] == "missing"


# Names


NAMES: list[tuple[str, str | None]] = [
    ('filename="a.png"', "a.png"),
    ("filename=a.png", "a.png"),
    ('filename="na\u00efve \u2713.png"', "na\u00efve \u2713.png"),
    ('filename="a%22b%0D%0Ac%0d.png"', 'a"b\r\nc\r.png'),
    ('filename="100%25 %41.png"', "100%25 %41.png"),
    ('filename="a;b=c, d.png"', "a;b=c, d.png"),
    (r'filename="a\"b.png"', 'a"b.png'),
    ("filename*=UTF-8''na%C3%AFve%22.png", 'na\u00efve".png'),
    ("filename*=utf-8'en'%e2%82%ac", "\u20ac"),
    ("filename*=ISO-8859-1''%A3", "\u00a3"),
    ("filename=\"EURO.txt\"; filename*=UTF-8''%e2%82%ac", "\u20ac"),
    ("filename*=UTF-8''%e2%82%ac; filename=\"EURO.txt\"", "\u20ac"),
    ("filename=\"kept.txt\"; filename*=UTF-8''%ff", "kept.txt"),
    ("filename=\"kept.txt\"; filename*=KOI8-R''%ff", "kept.txt"),
    ("filename=\"a; filename*=UTF-8''b\"", "a; filename*=UTF-8''b"),
]


async def test_the_names_of_files() -> None:
    """As browsers and others write them, of parts and of raw bodies."""
    flow = Flow(Look())
    async with client(make_app(flow, Maybe, "seen")) as http:
        for written, expected in NAMES:
            response = await http.post("/", content=part("note", f"; {written}", b"x") + b"--b--\r\n", headers=FORM)
            assert response.json() == [1, [expected, None, 1]], written
        for written, expected in NAMES:
            headers = {b"content-disposition": f"attachment; {written}".encode()}
            response = await http.post("/", content=b"x", headers=headers)
            assert response.json()[1][0] == expected, written


@pytest.mark.parametrize("mark", ['\\"', '"', "\\", '"\\', "'", "*=utf-8'"])
def test_a_long_name_takes_no_longer_than_its_length(mark: str) -> None:
    """A pattern that starts over at each quotation mark would take hours."""
    parse_disposition('form-data; name="x"; filename="' + mark * 200_001 + "*")


def test_the_name_of_a_field() -> None:
    assert parse_disposition(b'form-data; name="a%22b"; filename="c"') == ('a"b', "c")
    assert parse_disposition(b"form-data") == parse_disposition(None) == (None, None)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\\\0")))
def test_any_name_that_a_browser_writes(name: str) -> None:
    """The encoding of the HTML standard loses nothing but what looks like it already, and paths of Windows."""
    assume(not any(text in name.upper() for text in ("%22", "%0A", "%0D")) and name.strip() == name)
    written = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    found = parse_disposition(f'form-data; name="x"; filename="{written}"'.encode())
    assert found == ("x", name)


# Declarations


class TemporaryFile(BaseTask):
    def __init__(self, image: UploadFile) -> None: ...


class TemporaryFiles(BaseTask):
    def __init__(self, others: Annotated[list[UploadFile] | None, "several"] = None) -> None: ...


class WithInfo(BaseTask):
    def __init__(self, images: list[Upload], images_info: UploadInfo) -> None: ...


class WithInfos(BaseTask):
    def __init__(self, image: Upload, image_info: list[UploadInfo]) -> None: ...


class NoType(BaseTask):
    def __init__(self, image: Annotated[Upload, PartLimits(media_type="png")]) -> None: ...


DECLARED: list[tuple[Any, str]] = [
    (
        TemporaryFile,
        "TemporaryFile: image is an UploadFile, whose temporary file no worker can read; use Upload, which is "
        "streamed into shared memory",
    ),
    (
        TemporaryFiles,
        "TemporaryFiles: others is an UploadFile, whose temporary file no worker can read; use Upload, which is "
        "streamed into shared memory",
    ),
    (WithInfo, "WithInfo: images_info must be list[UploadInfo], as images is declared"),
    (WithInfos, "WithInfos: image_info must be UploadInfo, as image is declared"),
    (NoType, "media_type 'png' is not of the form image/png, image/* or */*"),
]


@pytest.mark.parametrize(("task_type", "words"), DECLARED)
def test_what_cannot_work(task_type: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app(Flow(Look()), task_type, "seen")
    assert str(caught.value) == words


def test_limits_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match="^PartLimits needs max_size >= 1, got 0$"):
        PartLimits(max_size=0)
    assert repr(PartLimits(media_type="image/*")) == "PartLimits(media_type='image/*', max_size=None)"


async def beside(task: Maybe, extra: UploadFile) -> None: ...


def test_an_upload_file_beside_an_upload() -> None:
    """FastAPI would read the body for it."""
    with pytest.raises(ConfigurationError) as caught:
        flow_endpoint(Flow(Look()))(beside)
    assert str(caught.value) == (
        "beside: FastAPI would read the body, which is the upload, for extra; declare it as Upload in the task"
    )


def test_the_schema() -> None:
    """A list is an array of files; limits are those of each."""
    app, flow = FastAPI(), Flow(Look())

    def add(path: str, task_type: Any) -> None:
        async def endpoint(task: Any) -> None: ...

        endpoint.__annotations__["task"] = task_type
        app.post(path)(flow_endpoint(flow)(endpoint))

    add("/passport", Passport)
    add("/files", Attachments)
    Aqueduct(flow).install(app)
    paths = app.openapi()["paths"]
    photo = {"type": "string", "contentMediaType": "image/*", "minLength": 1, "maxLength": 1000}
    paper = {"type": "string", "contentMediaType": "application/octet-stream", "maxLength": 2000}
    assert paths["/passport"]["post"]["requestBody"]["content"] == {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"photo": photo, "papers": {"type": "array", "items": paper}},
                "required": ["photo"],
            },
            "encoding": {
                "photo": {"contentType": "image/*"},
                "papers": {"contentType": "application/pdf, text/plain"},
            },
        }
    }
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    body = paths["/files"]["post"]["requestBody"]
    assert not body["required"]
    assert body["content"]["application/octet-stream"]["schema"] == file
    assert body["content"]["multipart/form-data"]["schema"]["properties"] == {"files": {"type": "array", "items": file}}
