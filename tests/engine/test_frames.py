"""The bytes on a channel: whatever is packed comes out again, however the stream is cut."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_aqueduct.engine.memory.layout import Ref
from fastapi_aqueduct.engine.route import FINISHED
from fastapi_aqueduct.engine.wire.codec import Encoded
from fastapi_aqueduct.engine.wire.frames import (
    MAX_FRAME,
    Batch,
    Envelope,
    FrameReader,
    Kind,
    ProtocolError,
    Status,
    pack,
    pack_batches,
    pack_offsets,
    unpack_batches,
    unpack_marks,
    unpack_offsets,
    unpack_pairs,
)

frames = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=200)), max_size=10)
refs = st.builds(Ref, st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.booleans())
contents = st.builds(
    Encoded,
    st.binary(max_size=40),
    st.binary(max_size=200),
    st.lists(refs, max_size=4).map(tuple),
    st.just(b"") | st.binary(max_size=100),
)
envelopes = st.builds(
    Envelope,
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False),
    st.integers(FINISHED, 1000),
    st.sampled_from(Status),
    contents,
    st.just(b"") | st.binary(max_size=100),
)
batches = st.lists(
    st.builds(
        Batch,
        st.lists(envelopes, max_size=4),
        st.floats(0, 1e6, width=32),
        st.integers(0, 65_535),
        st.integers(0, 2**32 - 1),
    ),
    max_size=4,
)


@given(frames, st.data())
def test_frames_come_out_however_the_stream_is_cut(sent: list[tuple[Kind, bytes]], data: Any) -> None:
    stream = b"".join(pack(kind, payload) for kind, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, received = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == sent
    assert not reader.is_inside_frame


@given(frames, st.data())
def test_a_frame_that_a_death_cut_off_is_no_frame(sent: list[tuple[Kind, bytes]], data: Any) -> None:
    stream = b"".join(pack(kind, payload) for kind, payload in sent)
    end = data.draw(st.integers(0, len(stream)))
    reader = FrameReader()
    received = reader.feed(stream[:end])
    assert received == sent[: len(received)]
    complete = len(b"".join(pack(*frame) for frame in received))
    assert reader.is_inside_frame == (end > complete)


@settings(max_examples=20, deadline=None)
@given(st.integers(500_000, 1_000_000), st.lists(st.integers(1_000, 9_000), min_size=10, max_size=100))
def test_reading_copies_each_byte_a_few_times_however_long_a_frame_is(size: int, pieces: list[int]) -> None:
    stream = memoryview(pack(Kind.ANSWERS, b"x" * size) + pack(Kind.READY))
    reader, copied, position, feeds = FrameReader(), 0, 0, 0
    tracemalloc.start()
    try:
        for feeds, length in enumerate(itertools.cycle(pieces), start=1):  # noqa: B007
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            reader.feed(stream[position : position + length])
            copied += tracemalloc.get_traced_memory()[1] - before
            position += length
            if position >= len(stream):
                break
    finally:
        tracemalloc.stop()
    assert not reader.is_inside_frame
    assert copied <= 4 * len(stream) + 1_000 * feeds  # what is allocated beside copies


def test_a_frame_over_the_limit_is_refused_before_it_is_there() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        FrameReader().feed(struct.pack("<IB", MAX_FRAME + 1, Kind.TASKS))


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(ProtocolError, match=f"{MAX_FRAME + 1} bytes is over the limit of {MAX_FRAME}"):
        pack(Kind.TASKS, bytes(MAX_FRAME + 1))  # zeros take no memory until they are read


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="kind 99"):
        FrameReader().feed(struct.pack("<IB", 0, 99))


@given(st.binary(max_size=300))
def test_a_reader_of_noise_returns_frames_or_refuses(noise: bytes) -> None:
    try:
        FrameReader().feed(noise)
    except ProtocolError:
        pass


@settings(max_examples=50, deadline=None)
@given(batches)
def test_batches_come_out_as_they_went_in(sent: list[Batch]) -> None:
    assert unpack_batches(pack_batches(sent)) == sent


@settings(max_examples=50, deadline=None)
@given(batches, st.data())
def test_batches_that_are_cut_off_are_refused_or_fewer(sent: list[Batch], data: Any) -> None:
    payload = pack_batches(sent)
    end = data.draw(st.integers(0, len(payload)))
    try:
        received = unpack_batches(payload[:end])
    except ProtocolError:
        return
    assert received == sent[: len(received)]


@settings(max_examples=50, deadline=None)
@given(batches)
def test_extras_and_marks_take_no_bytes_where_there_are_none_and_change_nothing_else(sent: list[Batch]) -> None:
    plain = [batch._replace(envelopes=[bare(envelope) for envelope in batch.envelopes]) for batch in sent]
    envelopes = [envelope for batch in sent for envelope in batch.envelopes]
    beside = [part for envelope in envelopes for part in (envelope.content.extras, envelope.marks) if part]
    assert len(pack_batches(sent)) - len(pack_batches(plain)) == sum(4 + len(one) for one in beside)
    received = unpack_batches(pack_batches(sent))
    assert plain == [batch._replace(envelopes=[bare(envelope) for envelope in batch.envelopes]) for batch in received]


def bare(envelope: Envelope) -> Envelope:
    return envelope._replace(content=envelope.content._replace(extras=b""), marks=b"")


@given(st.binary(max_size=60))
def test_noise_in_place_of_marks_is_read_or_refused(noise: bytes) -> None:
    try:
        marks = unpack_marks(noise)
    except ProtocolError:
        return
    assert unpack_marks(marks.pack()) == marks


@given(st.binary(max_size=300))
def test_noise_in_place_of_batches_is_read_or_refused(noise: bytes) -> None:
    try:
        unpack_batches(noise)
    except ProtocolError:
        pass


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_offsets_come_out_as_they_went_in(offsets: list[int]) -> None:
    assert list(unpack_offsets(pack_offsets(offsets))) == offsets


def test_offsets_that_are_cut_off_are_refused() -> None:
    with pytest.raises(ProtocolError, match="7 bytes"):
        unpack_offsets(b"1234567")


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))))
def test_pairs_come_out_as_they_went_in(pairs: list[tuple[int, int]]) -> None:
    payload = pack_offsets([number for pair in pairs for number in pair])
    assert list(unpack_pairs(payload)) == pairs
    for size in (8, 15):
        with pytest.raises(ProtocolError, match="pairs of numbers"):
            unpack_pairs(payload + bytes(size))
