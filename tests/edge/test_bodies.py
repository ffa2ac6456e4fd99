"""Every kind of body arrives as it was sent."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator
from typing import Any

from .clients import Client, File, Form
from .ways import every_way

SMALL = b"\1\2\3"
LARGE = random.Random(1).randbytes(3 << 20)
PNG = {"content-type": "image/png"}


async def pieces(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def report(content: bytes, filename: str | None = None, media_type: str | None = "image/png") -> dict[str, Any]:
    """Say what the application should say."""
    size = len(content)
    return {"size": size, "checksum": zlib.crc32(content), "factor": 2, "info": [filename, media_type, size, None]}


@every_way
async def test_raw_bodies(client: Client) -> None:
    """With a Content-Length, in chunks without one, and compressed; and JSON, which is no upload."""
    for content in (SMALL, LARGE):
        for body, headers in (
            (content, PNG),
            (pieces(content), PNG),
            (gzip.compress(content, 1), {**PNG, "content-encoding": "gzip"}),
        ):
            response = await client.post("/inspect?factor=2", body, headers)
            assert (response.status_code, response.json()) == (200, report(content))
    words = ["word"] * 10_000
    body = json.dumps({"words": words}).encode()
    response = await client.post("/join", body, {"content-type": "application/json"})
    assert response.json() == " ".join(words)


@every_way
async def test_forms(client: Client) -> None:
    """With one upload, where a raw body would do as well, and with several and fields beside them."""
    for content in (SMALL, LARGE):
        form = Form((File("image", "picture.png", content, "image/png"),), (("other", "field"),))
        response = await client.post("/inspect?factor=2", form)
        assert (response.status_code, response.json()) == (200, report(content, "picture.png"))
    files = (File("front", "f", LARGE, "image/png"), File("back", "b", SMALL, "x/y"))
    fields = (("title", "ü"), ("numbers", "1"), ("numbers", "2"))
    response = await client.post("/pair?quality=7", Form(files, fields))
    infos = [["f", "image/png", len(LARGE)], ["b", "x/y", 3]]
    assert response.json() == [sum(LARGE), 6, infos, "ü", [1, 2], 7]
