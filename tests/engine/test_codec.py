"""The codec alone, in one process: what goes in comes out, and every block is free again."""

from __future__ import annotations

import array
import copy
import copyreg
import ctypes
import gc
import os
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastapi_aqueduct import ArenaFull, TaskNotPicklable
from fastapi_aqueduct.engine.memory.arena import THRESHOLD, Arena
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import PAGE, Mapping, create_memory
from fastapi_aqueduct.engine.wire.codec import Codec, Encoded
from fastapi_aqueduct.runtime import runtime_of, set_runtime

from .. import handlers
from ..handlers import Job

LIMIT = 8 << 20


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    layout = Layout(regions=1, limit=LIMIT)
    fd = create_memory("test", layout.size)
    arena: Arena
    arena = Arena(Mapping(fd, layout.size), layout, 0, lambda offset: arena.free(offset))
    yield arena
    os.close(fd)


def travel(arena: Arena, task: Job) -> Job:
    """Encode and decode a task."""
    codec = Codec(arena)
    arrived = codec.decode(codec.encode(task))
    assert isinstance(arrived, Job)
    return arrived


@pytest.mark.parametrize("value", [None, b"", "text"])
def test_what_replaces_bytes_that_were_not_read_travels(arena: Arena, value: Any) -> None:
    arrived: Any = travel(arena, Job(content=b"x" * THRESHOLD))
    arrived.content = value
    again: Any = travel(arena, arrived)
    assert again.content == value


def used(arena: Arena) -> int:
    gc.collect()
    arena.collect()
    assert len(arena.allocator.blocks) == len(arena.leases)
    return len(arena.leases)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=100),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=10,
)
large = st.integers(THRESHOLD - 2, THRESHOLD + 2).map(lambda size: b"x" * size)
arrays = hnp.arrays(
    dtype=hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.datetime64_dtypes() | hnp.boolean_dtypes(),
    shape=hnp.array_shapes(max_dims=4, max_side=6),
    fill=st.nothing(),
)
fields = st.dictionaries(st.sampled_from("abcdef"), plain | large | large.map(bytearray), max_size=6)


@settings(max_examples=60, deadline=None)
@given(fields=fields)
def test_fields_come_out_as_they_went_in(arena: Arena, fields: dict[str, Any]) -> None:
    task = Job(**fields)
    arrived = travel(arena, task)
    for name, value in fields.items():
        assert getattr(arrived, name) == value
        assert type(getattr(arrived, name)) is type(value)
    assert arrived.task_id == task.task_id
    again = travel(arena, arrived)
    assert {name: getattr(again, name) for name in fields} == fields
    del arrived, again
    assert used(arena) == 0


@settings(max_examples=60, deadline=None)
@given(item=st.recursive(plain | large | large.map(bytearray), lambda inner: st.tuples(inner, inner), max_leaves=4))
def test_items_come_out_as_they_went_in(arena: Arena, item: Any) -> None:
    codec = Codec(arena)
    body, blocks = codec.encode_item(item)
    arrived = codec.decode_item(Encoded(b"", body, blocks))
    assert arrived == item
    assert type(arrived) is type(item)
    del arrived
    assert used(arena) == 0


@settings(max_examples=60, deadline=None)
@given(small=arrays, order=st.sampled_from("CFK"), data=st.data(), times=st.sampled_from([1, 3000]))
def test_arrays_come_out_as_they_went_in(arena: Arena, small: Any, order: Any, data: Any, times: int) -> None:
    # Repeated along an axis: above the threshold without the cost of drawing as many elements.
    array = np.concatenate([small] * times, axis=data.draw(st.integers(0, small.ndim - 1))).copy(order=order)
    array = array.transpose(data.draw(st.permutations(range(array.ndim))))
    array = array[data.draw(hnp.basic_indices(array.shape, allow_newaxis=True))]
    if not isinstance(array, np.ndarray):
        return
    arrived = travel(arena, Job(array=array))
    once = arrived.array
    part = once[data.draw(hnp.basic_indices(once.shape))]
    twice = travel(arena, Job(array=once, part=part))
    for result in (once, twice.array):
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        np.testing.assert_array_equal(result, array)
    np.testing.assert_array_equal(twice.part, part)
    del arrived, once, part, twice, result
    assert used(arena) == 0


@pytest.mark.parametrize("beside", [None, b"small", np.arange(3), np.float32(1), [1, 2]], ids=lambda value: str(value))
def test_an_array_in_two_fields_is_copied_once(arena: Arena, beside: Any) -> None:
    array = np.arange(THRESHOLD).reshape(2, -1)
    arrived = travel(arena, Job(one=array, beside=beside, other=array))
    assert used(arena) == 1
    np.testing.assert_array_equal(arrived.one, array)
    np.testing.assert_array_equal(arrived.other, array)
    np.testing.assert_array_equal(arrived.beside, beside)
    assert type(arrived.beside) is type(beside)
    del arrived
    assert used(arena) == 0


def test_an_array_that_another_object_holds_stays_the_same(arena: Arena) -> None:
    array = np.arange(THRESHOLD)
    arrived = travel(arena, Job(array=array, pages=[array]))
    assert arrived.pages[0] is arrived.array
    del arrived
    assert used(arena) == 0


def test_the_arena_is_full_wherever_a_buffer_is(arena: Arena) -> None:
    small, large = np.zeros(THRESHOLD, np.uint8), np.zeros(LIMIT + 1, np.uint8)
    for fields in ({"a": small, "b": large}, {"a": small, "b": [large]}, {"a": small, "b": bytes(large)}):
        with pytest.raises(ArenaFull):
            Codec(arena).encode(Job(**fields))
        assert used(arena) == 0


@pytest.mark.parametrize("size", [THRESHOLD - 1, THRESHOLD, THRESHOLD + 1])
def test_the_threshold_decides_what_moves(arena: Arena, size: int) -> None:
    for value in (b"x" * size, np.zeros(size, np.uint8)):
        arrived = travel(arena, Job(value=value))
        assert used(arena) == (size >= THRESHOLD)
        del arrived


def test_a_long_stream_of_small_values_goes_through_shared_memory(arena: Arena) -> None:
    codec = Codec(arena)
    encoded = codec.encode(Job(numbers=list(range(100_000))))
    assert len(encoded.body) < 100
    assert len(encoded.blocks) == 1
    assert vars(codec.decode(encoded))["numbers"] == list(range(100_000))
    assert used(arena) == 0


def test_many_crops_of_one_array_are_one_block(arena: Arena) -> None:
    page = travel(arena, Job(page=np.arange(1_000_000, dtype=np.uint32))).page
    lines = [page[number : number + 3] for number in range(66_000)]  # more than two bytes can count
    arrived = travel(arena, Job(lines=lines))
    assert used(arena) == 1
    assert all((one == other).all() for one, other in zip(arrived.lines, lines, strict=True))
    del page, lines, arrived
    assert used(arena) == 0


@pytest.mark.parametrize(
    ("extra", "error"), [({"lock": threading.Lock()}, TaskNotPicklable), ({"more": b"x" * LIMIT}, ArenaFull)]
)
def test_a_task_that_cannot_be_encoded_leaves_nothing(arena: Arena, extra: Any, error: type[Exception]) -> None:
    codec = Codec(arena)
    with pytest.raises(error):
        codec.encode(Job(image=np.zeros(100_000), payload=b"x" * 100_000, **extra))
    assert used(arena) == 0


@pytest.mark.parametrize("before", [[], [b"x" * 100_000], [list(range(50_000))], [np.ones(20_000), (1, 2)]])
def test_a_codec_goes_on_after_a_task_that_could_not_be_encoded(arena: Arena, before: list[Any]) -> None:
    codec = Codec(arena)
    good = Job(image=np.arange(9_000), words=["a", "b"], nested=[before])
    wanted: Any = codec.decode(codec.encode(good))
    with pytest.raises(TaskNotPicklable):
        codec.encode(Job(nested=[before], culprit=threading.Lock()))
    again: Any = codec.decode(codec.encode(good))
    assert (again.image == wanted.image).all() and again.words == wanted.words
    del wanted, again
    assert used(arena) == 0


def test_a_codec_remembers_nothing_of_a_task(arena: Arena) -> None:
    codec = Codec(arena)
    image, word = np.ones(10_000), handlers.Gate(Path("nowhere"))
    seen = weakref.ref(image), weakref.ref(word)
    codec.decode(codec.encode(Job(image=image, word=word)))
    del image, word
    gc.collect()
    assert [ref() for ref in seen] == [None, None]
    assert used(arena) == 0


def test_whether_a_small_array_may_be_written_travels_with_it(arena: Arena) -> None:
    image = np.arange(5)
    image.flags.writeable = False
    task = travel(arena, Job(fixed=image, free=np.arange(5), scalar=np.array(7), none=np.ones((0, 3), ">f4")))
    assert not task.fixed.flags.writeable and task.free.flags.writeable
    assert task.scalar.shape == () and task.scalar == 7
    assert task.none.shape == (0, 3) and task.none.dtype == np.dtype(">f4")


def test_what_an_array_type_carries_beside_its_name_travels(arena: Arena) -> None:
    noted = np.dtype(np.int32, metadata={"unit": "mm"})
    days = np.array(["2020-01-01"] * 3_000, "datetime64[D]")
    pairs = np.zeros(3_000, [("a", "i4"), ("b", "f8")])
    task = travel(arena, Job(noted=np.ones(9_000, noted), days=days, pairs=pairs, bits=np.ones(20_000, bool)))
    assert dict(task.noted.dtype.metadata or {}) == {"unit": "mm"}
    assert task.days.dtype == days.dtype and task.pairs.dtype == pairs.dtype and task.bits.dtype == np.bool_
    del task
    assert used(arena) == 0


def test_the_culprit_is_named_among_fields_that_can_travel(arena: Arena) -> None:
    task = travel(arena, Job(payload=b"x" * 100_000, image=np.zeros(100_000)))
    task.__dict__["deep"] = {"list": [1, threading.Lock()]}
    with pytest.raises(TaskNotPicklable, match=r"Job\.deep of type dict"):
        Codec(arena).encode(task)
    del task
    assert used(arena) == 0


def test_a_task_that_contains_itself_travels(arena: Arena) -> None:
    knot: list[Any] = []
    knot.append(knot)
    arrived = travel(arena, Job(knot=knot))
    assert arrived.knot[0] is arrived.knot


def test_a_nesting_that_is_too_deep_is_refused(arena: Arena) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TaskNotPicklable):
        Codec(arena).encode(Job(deep=deep))
    # Taken apart by hand: the interpreter would do it by recursion.
    while deep:
        deep = deep.pop()


def test_a_task_that_cannot_be_rebuilt_leaves_nothing(arena: Arena) -> None:
    codec = Codec(arena)
    value = handlers.NotRebuildable(0)
    value.pid = os.getpid()
    encoded = codec.encode(Job(value=value, image=np.zeros(100_000)))
    task = Job(number=1)
    with pytest.raises(RuntimeError, match="refuses"):
        codec.decode_into(task, encoded)
    assert task.number == 1
    assert used(arena) == 0


def test_the_limit_of_the_arena_holds(arena: Arena) -> None:
    refs = []
    with pytest.raises(ArenaFull):
        while True:
            refs.append(arena.allocate(1 << 20))
    assert len(refs) == 8
    assert arena.status.usage() <= arena.layout.limit
    for ref in refs:
        arena.free(ref.offset)
    arena.trim()
    assert arena.status.usage() == 0


def test_memory_that_is_given_back_is_not_held_by_the_system(arena: Arena) -> None:
    def pages() -> int:
        return os.stat(f"/proc/self/map_files/{maps[0]}").st_blocks

    ref = arena.allocate(4 << 20)
    arena.write(ref)[:] = b"x" * (4 << 20)
    targets = {name: _target(name) for name in os.listdir("/proc/self/map_files")}
    if not any(targets.values()):
        pytest.skip("this system does not show which files are mapped")
    maps = [name for name, target in targets.items() if "memfd:aqueduct-test" in target]
    before = pages()
    arena.free(ref.offset)
    arena.trim()
    assert before - pages() >= (4 << 20) // 512 - PAGE // 512


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/map_files/{name}")
    except OSError:
        return ""


# What pickle preserves


VALUES: dict[str, Any] = {
    "a pattern": re.compile("a+", re.I),
    "a union of types": int | str,
    "a function of numpy": np.add,
    "a time": np.datetime64("2020-01-01"),
    "a class": Path,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_what_is_registered_with_copyreg_travels(arena: Arena, value: Any) -> None:
    arrived = travel(arena, Job(value=value, more=[value]))
    assert arrived.value == value and arrived.more == [value]


class Registered:
    """Is reduced by a function that is registered after the codec was made."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()


def test_what_is_registered_later_travels_too(arena: Arena) -> None:
    codec = Codec(arena)
    with pytest.raises(TaskNotPicklable, match="lock"):
        codec.encode(Job(value=Registered(7)))
    copyreg.pickle(Registered, lambda value: (Registered, (value.number,)))
    try:
        assert vars(codec.decode(codec.encode(Job(value=Registered(7)))))["value"].number == 7
    finally:
        del copyreg.dispatch_table[Registered]


@pytest.mark.parametrize("payload", [b"small", b"x" * 100_000], ids=["small", "large"])
def test_a_field_that_refers_to_its_task_is_the_same_on_the_other_side(arena: Arena, payload: bytes) -> None:
    task: Any = Job(payload=payload, image=np.arange(9_000), number=1)
    task.me, task.node, task.deep = task, handlers.Node(task), {"list": [(task,)]}
    arrived = travel(arena, task)
    assert arrived is not task
    assert arrived.me is arrived and arrived.node.task is arrived and arrived.deep["list"][0][0] is arrived
    assert arrived.payload == payload and (arrived.image == task.image).all()
    codec = Codec(arena)
    arrived.number = 2
    codec.decode_into(task, codec.encode(arrived))
    assert task.number == 2 and task.node.task is task
    arrived.me = arrived.node = arrived.deep = task.me = task.node = task.deep = None
    del arrived, task
    assert used(arena) == 0


def test_a_task_in_a_task_has_its_shared_bytes(arena: Arena) -> None:
    inner = travel(arena, Job(payload=b"x" * 100_000, number=1))
    assert "payload" not in vars(inner)
    arrived = travel(arena, Job(inner=inner, number=2))
    assert type(arrived.inner) is Job
    assert (arrived.inner.payload, arrived.inner.task_id) == (b"x" * 100_000, inner.task_id)
    again = copy.deepcopy(travel(arena, Job(payload=b"x" * 100_000)))
    assert again.payload == b"x" * 100_000
    del inner, arrived
    assert used(arena) == 0


def test_a_task_that_says_what_travels_is_heard(arena: Arena) -> None:
    codec = Codec(arena)
    task = handlers.Trimmed(1, np.arange(9_000), b"x" * 100_000)
    task.priority = 3
    arrived: Any = codec.decode(codec.encode(task))
    assert (arrived.number, arrived.seen, arrived.payload) == (1, 1, b"x" * 100_000)
    assert (arrived.image == task.image).all() and not arrived.image.flags.writeable
    assert (arrived.task_id, arrived.priority) == (task.task_id, 3)
    assert arrived.lock is not task.lock
    arrived.number = 5
    lock = task.lock
    codec.decode_into(task, codec.encode(arrived))
    assert (task.number, task.seen) == (5, 2)
    assert task.lock is not lock
    del arrived, task
    assert used(arena) == 0


def test_a_state_need_not_be_a_dict(arena: Arena) -> None:
    codec = Codec(arena)
    task = handlers.Tuple(3)
    task.set_priority(1)
    arrived: Any = codec.decode(codec.encode(task))
    assert (arrived.number, arrived.same is arrived) == (3, True)
    assert (arrived.task_id, arrived.priority) == (task.task_id, 1)


def test_a_state_that_cannot_be_set_leaves_the_task_as_it_was(arena: Arena) -> None:
    codec = Codec(arena)
    worse, task = handlers.Trimmed(-1), handlers.Trimmed(1)
    with pytest.raises(ValueError, match="negative"):
        codec.decode_into(task, codec.encode(worse))
    assert (task.number, task.seen) == (1, 0)
    assert task.lock is not None


def test_the_culprit_in_a_state_is_named(arena: Arena) -> None:
    task: Any = handlers.Trimmed(1)
    task.culprit = threading.Lock()
    with pytest.raises(TaskNotPicklable, match=r"Trimmed\.culprit of type lock"):
        Codec(arena).encode(task)


# Views


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]


def view_of(array: Any) -> memoryview:
    return memoryview(array)


VIEWS: dict[str, Any] = {
    "bytes": memoryview(b"abc"),
    "nothing": memoryview(b""),
    "writable": memoryview(bytearray(b"abc")),
    "numbers": memoryview(array.array("d", [1.0, 2.0])),
    "a table": memoryview(bytes(range(24))).cast("i", (2, 3)),
    "ctypes": memoryview((ctypes.c_int * 3)(1, 2, 3)),
    "other byte order": view_of(np.arange(3, dtype=">i4")),
    "complex": view_of(np.arange(3, dtype="c16")),
    "records": view_of(np.zeros(3, [("a", "i4"), ("b", "f8")])),
    "half": view_of(np.arange(3, dtype="e")),
    "text": view_of(np.array(["ab", "c"])),
    "empty table": view_of(np.zeros((0, 5))),
    "a scalar": view_of(np.array(3)),
    "steps": memoryview(bytes(range(10)))[::2],
    "columns": view_of(np.asfortranarray(np.arange(6, dtype="i4").reshape(2, 3))),
}


@pytest.mark.parametrize("times", [1, 3_000], ids=["small", "large"])
@pytest.mark.parametrize("kind", VIEWS)
def test_views_of_every_format_travel(arena: Arena, kind: str, times: int) -> None:
    view = VIEWS[kind]
    if times > 1:
        if view.ndim != 1 or not view.nbytes:
            return
        view = view_of(np.tile(np.asarray(view), times))
    arrived = travel(arena, Job(view=view)).view
    assert type(arrived) is memoryview
    assert arrived.tobytes() == view.tobytes()
    assert (arrived.format.strip("@=<"), arrived.shape) == (view.format.strip("@=<"), view.shape)
    again = travel(arena, Job(view=arrived)).view
    assert again.tobytes() == view.tobytes()
    del arrived, again
    assert used(arena) == 0


def test_a_view_that_nothing_can_make_again_is_refused_by_name(arena: Arena) -> None:
    released = memoryview(b"abc")
    released.release()
    pointers = memoryview((ctypes.c_char_p * 2)())
    wrong = memoryview((Point * 2)())  # ctypes does not say where its fields are
    for view in (released, pointers, wrong):
        with pytest.raises(TaskNotPicklable, match=r"Job\.view of type memoryview"):
            Codec(arena).encode(Job(number=1, view=view))


# Who may write


def test_a_read_only_array_cannot_be_made_writeable(arena: Arena) -> None:
    image = np.arange(20_000, dtype=np.int32).reshape(100, 200)
    task = Job(image=image, held=[image], days=image.astype("M8[s]"), view=memoryview(image.tobytes()))
    arrived = travel(arena, task)
    crops = travel(arena, Job(crop=arrived.image[::2, 3:], other=[1])).crop
    flat = travel(arena, Job(image=image)).image
    found = [arrived.image, arrived.held[0], arrived.days, crops, flat, arrived.image[1:], flat.T, flat.view(np.uint8)]
    found += [np.frombuffer(arrived.view, np.uint8), np.asarray(arrived.view)]
    for value in found:
        with pytest.raises(ValueError, match="WRITEABLE"):
            value.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0
    del arrived, crops, flat, found, value
    assert used(arena) == 0


def test_views_that_are_part_of_garbage_are_collected(arena: Arena) -> None:
    task = travel(arena, Job(payload=b"x" * 100_000, view=memoryview(b"y" * 50_000), image=np.zeros(9_000)))
    cycle: list[Any] = [task.view, task.view[10:], memoryview(task.image), task]
    cycle.append(cycle)
    del task, cycle
    assert used(arena) == 0


@pytest.mark.parametrize("dtype", ["i4", "M8[s]", ">m8[ms]", "U3", "S4", "c8", "f2", "?", [("a", "i4"), ("b", "f8")]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_shared_is_shared_on_the_way(arena: Arena, dtype: Any, order: Any) -> None:
    task = Job(image=arena.share(np.zeros((30, 20), dtype, order=order)), other=[1])
    assert task.image.dtype == np.dtype(dtype)
    arrived = travel(arena, task)
    arrived.image[3, 4] = np.ones((), dtype)
    assert task.image[3, 4] == np.ones((), dtype)
    assert arrived.image.dtype == task.image.dtype
    del task, arrived
    assert used(arena) == 0


def test_the_state_of_a_task_in_one_process_does_not_travel(arena: Arena) -> None:
    task = Job(number=1, payload=b"x" * THRESHOLD)
    set_runtime(task, "metrics", ((), 1.0))
    set_runtime(task, "noted", {"number": 2})
    arrived = travel(arena, task)
    assert runtime_of(arrived).keys() == {"deferred"}  # its own: the payload, which is not read yet
    assert runtime_of(travel(arena, Job(number=1))) == {}
    del arrived
    assert used(arena) == 0


def test_a_copy_of_a_task_has_a_state_of_its_own() -> None:
    task = Job(number=1)
    set_runtime(task, "metrics", ((), 1.0))
    other = copy.copy(task)
    other.fail(ValueError("the copy"))
    assert other.metrics.total_time == task.metrics.total_time == 1.0
    assert "failure" not in runtime_of(task)
