"""Patches: what a handler has changed of a task, joined to the task without reading either."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_aqueduct import BaseTask, TaskNotPicklable
from fastapi_aqueduct.engine.memory.arena import THRESHOLD, Arena
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.wire.codec import Codec, Encoded
from fastapi_aqueduct.engine.wire.joined import MalformedTask, split_parts
from fastapi_aqueduct.engine.wire.patch import Changes, fields_of, join
from fastapi_aqueduct.runtime import drop_runtime
from fastapi_aqueduct.task import shared_memories

from ..handlers import Job, Keyed, Ticket, Trimmed, Tuple

LARGE = 2 * THRESHOLD


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    layout = Layout(regions=1, limit=64 << 20)
    fd = create_memory("test", layout.size)
    arena: Arena
    arena = Arena(Mapping(fd, layout.size), layout, 0, lambda offset: arena.free(offset))
    shared_memories.append(arena)
    yield arena
    shared_memories.remove(arena)
    os.close(fd)


def work(arena: Arena, content: Encoded, *edits: Callable[[Any], object]) -> Encoded:
    """Return the patch of a handler that makes some changes."""
    codec = Codec(arena)
    changes = Changes(codec, arena)
    task = codec.decode(content)
    changes.begin(task)
    for edit in edits:
        edit(task)
    body, blocks = changes.encode(task)
    return Encoded(b"", body, blocks)


def fields(task: Any) -> dict[str, Any]:
    """Return the fields of a task, with those in shared memory."""
    task._copy_out()
    drop_runtime(task, "before")
    return {name: value for name, value in vars(task).items() if name != "task_id"}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def make(large: bool) -> Job:
    size = LARGE if large else 100
    return Job(
        number=1,
        text="text",
        data=bytes(size),
        buffer=bytearray(size),
        array=np.zeros(size, np.uint8),
        items=[[1], {"a": np.zeros(size, np.uint8)}],
        pair=([1], "x"),
        names={"b", "a"},
        gone="gone",
    )


EDITS: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "nothing": (lambda task: None, []),
    "read": (lambda task: (task.data, task.buffer, task.array.sum(), task.items, task.names), []),
    "set": (lambda task: setattr(task, "number", 2), ["number"]),
    "set again": (lambda task: setattr(task, "number", task.number), []),
    "equal object": (lambda task: setattr(task, "names", {"a", "b"}), ["names"]),
    "new": (lambda task: setattr(task, "new", [1, 2]), ["new"]),
    "large": (lambda task: setattr(task, "new", np.ones(LARGE)), ["new"]),
    "large bytes": (lambda task: setattr(task, "new", b"x" * LARGE), ["new"]),
    "replaced": (lambda task: setattr(task, "data", b"y" * LARGE), ["data"]),
    "slice": (lambda task: setattr(task, "new", task.array[1:]), ["new"]),
    "deleted": (lambda task: delattr(task, "gone"), ["gone"]),
    "deleted data": (lambda task: delattr(task, "data"), ["data"]),
    "deleted and set": (lambda task: (vars(task).pop("gone"), vars(task).update(gone=1)), ["gone"]),
    "list in place": (lambda task: task.items.append(3), ["items"]),
    "deep in place": (lambda task: task.items[1].update(b=1), ["items"]),
    "tuple in place": (lambda task: task.pair[0].append(2), ["pair"]),
    "set in place": (lambda task: task.names.add("c"), ["names"]),
    "bytearray in place": (lambda task: task.buffer.__setitem__(0, 1), ["buffer"]),
    "priority": (lambda task: task.set_priority(1), ["priority"]),
    "refers to the task": (lambda task: setattr(task, "me", [task.items, task.number]), ["me"]),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", EDITS)
def test_a_patch_has_what_was_changed(arena: Arena, name: str, large: bool) -> None:
    edit, expected = EDITS[name]
    content = Codec(arena).encode(make(large))
    patch = work(arena, content, edit)
    assert fields_of(patch) == expected
    joined = join(content, [patch])
    edited = Codec(arena).decode(content)
    edit(edited)
    assert same(fields(Codec(arena).decode(joined)), fields(edited))
    assert len({ref.offset for ref in joined.blocks}) == len(joined.blocks)


def test_a_small_array_may_change_in_place_and_a_large_one_cannot(arena: Arena) -> None:
    def double(task: Any) -> None:
        task.array[:] = 2

    small, large = (Codec(arena).encode(make(large)) for large in (False, True))
    assert fields_of(work(arena, small, double)) == ["array"]
    with pytest.raises(ValueError, match="read-only"):
        work(arena, large, double)


def test_a_large_array_in_a_list_is_copied_to_shared_memory_only(arena: Arena) -> None:
    """And not into a pickle that would tell that the list has changed."""
    codec = Codec(arena)
    changes = Changes(codec, arena)
    task: Any = codec.decode(codec.encode(Job(items=[1])))
    changes.begin(task)
    task.items.append(np.ones(1 << 23, np.uint8))
    tracemalloc.start()
    try:
        body, blocks = changes.encode(task)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fields_of(Encoded(b"", body, blocks)) == ["items"]
    assert peak < 1 << 20
    for ref in blocks:
        arena.free(ref.offset)


def test_a_field_that_is_shared_for_writing_is_no_change_and_one_that_becomes_so_is_one(arena: Arena) -> None:
    task = make(True)
    task.share_value("array")
    content = Codec(arena).encode(task)

    def change(task: Any) -> None:
        task.array[0] = 7
        task.share_value("text_bytes")

    patch = work(arena, content, lambda task: setattr(task, "text_bytes", b"abc"), change)
    assert fields_of(patch) == ["text_bytes"]
    assert task.array[0] == 7
    assert Codec(arena).decode(join(content, [patch])).text_bytes == b"abc"  # type: ignore[attr-defined]


def test_a_field_that_contains_the_task_itself_changes_only_if_it_is_changed(arena: Arena) -> None:
    sent = Job(number=1)
    vars(sent)["chain"] = [sent]
    content = Codec(arena).encode(sent)
    patch = work(arena, content, lambda task: setattr(task, "number", 2))
    assert fields_of(patch) == ["number"]
    task: Any = Codec(arena).decode(join(content, [patch]))
    assert task.chain == [task]
    assert task.number == 2
    patch = work(arena, content, lambda task: task.chain.append(task))
    task = Codec(arena).decode(join(content, [patch]))
    assert task.chain == [task, task]


def test_a_dataclass_with_defaults_on_the_class(arena: Arena) -> None:
    content = Codec(arena).encode(Ticket(1, b"x" * LARGE))
    patch = work(arena, content, lambda task: task.seen.append(task.payload[:1]))
    assert fields_of(patch) == ["seen"]
    task: Any = Codec(arena).decode(join(content, [patch]))
    assert (task.payload, task.seen) == (b"x" * LARGE, [b"x"])


def test_a_state_is_merged_by_its_keys(arena: Arena) -> None:
    content = Codec(arena).encode(Trimmed(1, [1], b"x" * LARGE))
    one = work(arena, content, lambda task: task.image.append(2), lambda task: task.set_priority(3))
    other = work(arena, content, lambda task: setattr(task, "number", 5), lambda task: delattr(task, "payload"))
    assert fields_of(one) == ["image", "priority"]
    assert fields_of(other) == ["number", "payload"]
    task: Any = Codec(arena).decode(join(content, [one, other]))
    assert (task.image, task.number, task.seen, task.priority) == ([1, 2], 5, 1, 3)
    assert "payload" not in vars(task)
    assert task.lock


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Tuple(1), r"Tuple.__getstate__ returns a tuple: in a group it must return a dict"),
        (Keyed(1), r"Keyed.__getstate__ returns a dict with a key of type int: in a group its keys must be str"),
    ],
)
def test_a_state_without_names_cannot_be_merged(arena: Arena, task: BaseTask, message: str) -> None:
    content = Codec(arena).encode(task)
    with pytest.raises(TaskNotPicklable, match=message):
        work(arena, content)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_task_takes_over_the_fields_of_another_one(arena: Arena, large: bool) -> None:
    """Also those of another one of its batch; what that does not have is deleted."""
    content = Codec(arena).encode(make(large))
    before = fields(Codec(arena).decode(content))
    patch = work(arena, content, lambda task: task.update(Job(number=2, new=b"x" * LARGE), ["text"]))
    assert fields_of(patch) == sorted(before.keys() - {"text"} | {"new"})
    assert fields(Codec(arena).decode(join(content, [patch]))) == {"number": 2, "text": "text", "new": b"x" * LARGE}
    codec = Codec(arena)
    changes = Changes(codec, arena)
    one, other = codec.decode(content), codec.decode(codec.encode(Job(number=2, data=b"y" * LARGE)))
    for task in (one, other):
        changes.begin(task)
    one.update(other)
    body, blocks = changes.encode(one)
    joined = codec.decode(join(content, [Encoded(b"", body, blocks)]))
    assert fields(joined) == {"number": 2, "data": b"y" * LARGE}
    assert fields_of(Encoded(b"", *changes.encode(other))) == []


def test_what_cannot_travel_is_named_and_leaves_no_block(arena: Arena) -> None:
    content = Codec(arena).encode(Job(number=1))
    before = len(arena.allocator.blocks)
    with pytest.raises(TaskNotPicklable, match=re.escape("Job.bad of type function cannot travel")):
        work(arena, content, lambda task: vars(task).update(good=np.ones(LARGE), bad=lambda: None))
    assert len(arena.allocator.blocks) == before


values = st.recursive(
    st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.sampled_from([b"x" * LARGE, bytearray(LARGE)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=4,
)
names = ["a", "b", "c", "d", "e", "f"]
edits = st.dictionaries(st.sampled_from(names), st.none() | values, max_size=4)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), before=st.dictionaries(st.sampled_from(names), values))
def test_disjoint_patches_make_what_the_changes_one_after_the_other_make(
    arena: Arena, data: st.DataObject, before: dict[str, Any]
) -> None:
    """None stands for a deletion."""
    first, second = data.draw(edits), data.draw(edits)
    second = {name: value for name, value in second.items() if name not in first}

    def apply(edit: dict[str, Any]) -> Callable[[BaseTask], None]:
        def change(task: BaseTask) -> None:
            for name, value in edit.items():
                if value is not None:
                    setattr(task, name, value)
                elif hasattr(task, name):
                    delattr(task, name)

        return change

    content = Codec(arena).encode(Job(**before))
    patches = [work(arena, content, apply(edit)) for edit in (first, second)]
    for order in (patches, patches[::-1]):
        joined = join(join(content, order[:1]), order[1:])
        task = Job(**before)
        for edit in (first, second):
            apply(edit)(task)
        assert fields(Codec(arena).decode(joined)) == fields(task)
    joined = join(content, patches)
    assert joined.blocks == join(join(content, patches[:1]), patches[1:]).blocks


def test_the_patches_of_one_branch_apply_in_their_order(arena: Arena) -> None:
    content = Codec(arena).encode(Job(number=1, old=b"x" * LARGE))
    first = work(arena, content, lambda task: vars(task).update(number=2, big=b"a" * LARGE), lambda task: task.old)
    middle = join(content, [first])
    second = work(arena, middle, lambda task: setattr(task, "number", 3), lambda task: delattr(task, "big"))
    assert fields_of(second) == ["big", "number"]
    task = Codec(arena).decode(join(middle, [second]))
    assert fields(task) == {"number": 3, "old": b"x" * LARGE}


@pytest.mark.parametrize("size", [3, 7])
def test_malformed_bytes_are_an_error(arena: Arena, size: int) -> None:
    content = Codec(arena).encode(Job(number=1))
    patch = work(arena, content, lambda task: setattr(task, "number", 2))
    with pytest.raises(MalformedTask, match="cut off"):
        fields_of(patch._replace(body=patch.body[:size]))
    joined = join(content, [patch]).body
    for end in range(2, len(joined)):
        if end != 1 + 8 + len(content.body):
            with pytest.raises(MalformedTask, match="malformed|cut off"):
                split_parts(joined[:end], ())
