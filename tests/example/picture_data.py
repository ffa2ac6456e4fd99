"""Tells schemathesis what a picture is: whole ones, damaged ones and bytes that are none."""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

KINDS = {"PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"], "JPEG": ["L", "RGB", "CMYK"], "WEBP": ["RGB", "RGBA"]}
KINDS |= {"GIF": ["1", "L", "P", "RGB"], "TIFF": ["1", "L", "LA", "RGB", "RGBA", "CMYK", "F"], "BMP": ["1", "L", "RGB"]}


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Small pictures of every kind."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    mode = draw(st.sampled_from(KINDS[kind]))
    size = draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    file = io.BytesIO()
    Image.new(mode, size, draw(st.integers(0, 1))).save(file, kind)
    return file.getvalue()


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """Pictures with some bytes changed, or without their end."""
    data = bytearray(draw(pictures()))
    for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))])


schemathesis.openapi.media_type("application/octet-stream", pictures() | damaged_pictures() | st.binary(min_size=1))
