"""The search for delimiters, with Python's own as the measure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct.asgi.search import find

# Few letters, so that what is looked for begins in many places.
texts = st.text("ab\r\0", max_size=60).map(str.encode) | st.binary(max_size=60)


@given(texts, st.text("ab\r\0", min_size=1, max_size=4).map(str.encode) | st.binary(min_size=1, max_size=4), st.data())
def test_it_finds_what_python_finds(data: bytes, wanted: bytes, draw: st.DataObject) -> None:
    """From any place on, in what may change and in what may not."""
    start = draw.draw(st.integers(0, len(data)))
    expected = data.find(wanted, start)
    assert find(data, wanted, start) == expected
    assert find(bytearray(data), wanted, start) == expected


@given(texts, texts.filter(bool), st.integers(0, 3))
def test_it_finds_what_is_there(before: bytes, wanted: bytes, times: int) -> None:
    """Also what lies at the very beginning or end, or there several times."""
    data = before + wanted * times
    assert find(data, wanted, 0) == data.find(wanted)
    assert find(data, wanted, len(data)) == -1
