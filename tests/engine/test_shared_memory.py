"""Large fields in shared memory: what arrives, who may write, when it is free."""

from __future__ import annotations

import array
import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import ArenaFull, BaseTask, FlowStep

from .. import handlers
from ..handlers import Each, Gate, Job, Keeper
from ..support import DEADLINE, blocks, eventually, forked, fresh, outcome, pids, running

MIB = 1 << 20


def picture(*shape: int, dtype: str = "uint8", seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 100, shape or (400, 300, 3)).astype(dtype)


# Arrays


async def test_a_large_array_arrives_as_an_aligned_read_only_view() -> None:
    async with running(forked(Each(handlers.describe_image))) as flow:
        for dtype in ("uint8", "int16", "float64", "complex128", "bool"):
            image = picture(dtype=dtype)
            task = await flow.process(Job(image=image, odd=b"x" * 20_001))
            assert task.seen["shape"] == (400, 300, 3)
            assert task.seen["dtype"] == image.dtype
            assert task.seen["address"] % 64 == 0
            assert task.seen["aligned"]
            assert not task.seen["writeable"]
            assert not task.seen["owner"]
            assert not task.image.flags.writeable
            assert np.array_equal(task.image, image)
            del task


async def test_writing_to_what_shared_itself_is_an_error_of_numpy() -> None:
    async with running(forked(Each(handlers.write_into_image))) as flow:
        error = await outcome(flow.process(Job(image=picture())))
        assert isinstance(error, ValueError)
        assert "read-only" in str(error)


async def test_a_small_array_arrives_as_a_private_copy() -> None:
    async with running(forked(Each(handlers.write_into_image))) as flow:
        task = await flow.process(Job(image=np.zeros((4, 4), np.uint8)))
        assert (task.image == 7).all()
        await fresh(flow)
        assert blocks(flow) == 0


KINDS = {
    "fortran": np.asfortranarray(picture(400, 300)),
    "permuted": picture(60, 50, 40).transpose(2, 0, 1),
    "reversed": picture(400, 300)[::-1],
    "stepped": picture(400, 300)[::2, ::3],
    "cropped": picture(400, 300)[10:-10, 20:-20],
    "broadcast": np.broadcast_to(picture(1, 30_000), (3, 30_000)),
    "dates": picture(400, 300).astype("datetime64[s]"),
    "cropped dates": picture(400, 300).astype("datetime64[s]")[::2],
    "spans": picture(400, 300).astype("timedelta64[ms]"),
    "records": np.ones(5000, dtype=[("box", "4i4"), ("score", "f8")]),
    "field of records": np.ones(5000, dtype=[("box", "4i4"), ("score", "f8")])["score"],
    "other byte order": picture(300, 100).astype(">i4"),
    "text": np.full(5000, "text"),
    "half": picture(300, 100).astype(np.float16)[::2],
    "objects": np.array([{"k": "v" * 20_000}, [1, 2], None], dtype=object),
    "empty": np.zeros((0, 5)),
    "scalar": np.array(5),
    "masked": np.ma.masked_array(picture(200, 200), picture(200, 200) > 50),
}


async def test_arrays_of_every_kind_survive_the_journey() -> None:
    async with running(forked(Each(handlers.describe_image))) as flow:
        for kind, image in KINDS.items():
            task = await flow.process(Job(image=image))
            assert np.array_equal(task.image, image), kind
            assert type(task.image) is type(image), kind
            assert task.seen["dtype"] == task.image.dtype == image.dtype, kind
            assert task.seen["shape"] == task.image.shape == image.shape, kind
            del task
        await fresh(flow)
        assert blocks(flow) == 0


async def test_the_order_of_the_axes_survives() -> None:
    async with running(forked(Each(handlers.describe_image))) as flow:
        image = np.asfortranarray(picture(400, 300))
        task = await flow.process(Job(image=image))
        assert task.seen["f"]
        assert task.seen["strides"] == task.image.strides == image.strides
        rotated = picture(60, 50, 40).transpose(2, 0, 1)
        task = await flow.process(Job(image=rotated))
        assert task.seen["strides"] == rotated.strides
        del task


async def test_a_crop_travels_as_a_reference_to_the_whole() -> None:
    async with running(forked(Each(handlers.crop_image), Each(handlers.pass_on))) as flow:
        image = picture(1000, 1000)
        task = await flow.process(Job(image=image))
        assert np.array_equal(task.crop, image[10:-10, 20:-20:2])
        await fresh(flow)
        assert blocks(flow) == 1
        assert flow.statistics().arena.used == image.nbytes  # in the API process's region: no worker copied it
        del task


async def test_two_names_of_one_array_are_one_block() -> None:
    async with running(forked(Each(handlers.pass_on), Each(handlers.pass_on))) as flow:
        image = picture()
        task = await flow.process(Job(image=image, same=image, part=image[100:200]))
        again = await flow.process(task)
        assert np.array_equal(again.part, image[100:200])
        assert np.array_equal(again.image, again.same)
        del task, again


async def test_a_replaced_array_is_not_lost() -> None:
    async with running(forked(Each(handlers.replace_image), Each(handlers.replace_image))) as flow:
        image = picture()
        task = await flow.process(Job(image=image))
        assert np.array_equal(task.image, image + 2)
        await fresh(flow)
        assert blocks(flow) == 1
        del task


async def test_arrays_inside_of_other_objects_travel_too() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        pages = [{"page": number, "image": picture(seed=number)} for number in range(5)]
        task = await flow.process(Job(pages=pages))
        assert all(np.array_equal(one["image"], other["image"]) for one, other in zip(task.pages, pages, strict=True))
        await fresh(flow)
        assert blocks(flow) == 5
        del task


async def test_other_buffers_keep_their_type() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        numbers = array.array("d", range(10_000))
        view = memoryview(b"x" * 50_000)
        text = "ж" * 50_000
        task = await flow.process(Job(numbers=numbers, view=view, text=text))
        assert task.numbers == numbers
        assert isinstance(task.view, memoryview)
        assert task.view == view
        assert task.text == text
        del task


# Bytes


@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_bytes_arrive_as_such_and_are_copied_when_touched(kind: Any) -> None:
    flow = forked(Each(handlers.tell_whether_copied), Each(handlers.look_at_payload))
    async with running(flow):
        payload = kind(b"0123456789" * 10_000)
        task = await flow.process(Job(payload=payload))
        assert task.was_copied is False
        assert (task.kind, task.length) == (kind.__name__, 100_000)
        assert "payload" not in vars(task)
        assert task.payload == payload
        assert type(task.payload) is kind
        del task


async def test_unchanged_bytes_are_one_block_through_all_steps() -> None:
    steps = [Each(handlers.look_at_payload) for _ in range(3)]
    async with running(forked(*steps)) as flow:
        task = await flow.process(Job(payload=b"x" * MIB))
        await fresh(flow)
        assert blocks(flow) == 1
        assert flow.statistics().arena.used == MIB
        del task


async def test_bytes_of_a_field_with_a_default_are_not_copied_either() -> None:
    async with running(forked(Each(handlers.tell_whether_copied), Each(handlers.look_at_payload))) as flow:
        task: Any = await flow.process(Carrier(b"x" * MIB), DEADLINE)
        assert task.was_copied is False and "payload" not in vars(task)
        assert flow.statistics().arena.used == MIB
        assert task.payload == b"x" * MIB
        assert Carrier().payload is Carrier.payload is DEFAULT  # others have the default
        del task.payload
        assert task.payload is DEFAULT
        assert Heavier().payload is Heavier.payload is DEFAULT
        task = await flow.process(Heavier(b"y" * MIB))
        assert "payload" not in vars(task) and task.payload == b"y" * MIB

        @dataclass
        class Redeclared(Carrier):
            payload: bytes

        redeclared: Any = Redeclared
        assert redeclared().payload is DEFAULT
        task = await flow.process(Counting(b"z" * 100_000), DEADLINE)
        reads = Counting.reads  # not 0 where the workers are threads
        assert task.payload == b"z" * 100_000 and Counting.reads == reads + 1  # a property stays
        del task


async def test_a_changed_bytearray_is_not_lost() -> None:
    async with running(forked(Each(handlers.change_payload), Each(handlers.look_at_payload))) as flow:
        task = await flow.process(Job(payload=bytearray(b"x" * 100_000)))
        assert task.payload[:6] == b"HEADxx"
        del task


async def test_replaced_bytes_are_not_lost() -> None:
    async with running(forked(Each(handlers.replace_payload))) as flow:
        assert (await flow.process(Job(payload=b"x" * 100_000))).payload == b"new" * 10_000


async def test_replaced_bytes_are_not_lost_by_the_caller_either() -> None:
    async with running(forked(Each(handlers.look_at_payload))) as flow:
        task = await flow.process(Job(payload=b"x" * 100_000))
        task.payload = b"y" * 200_000
        await flow.process(task)
        assert (task.length, task.payload) == (200_000, b"y" * 200_000)
        del task


# Views that are kept


async def test_a_view_that_the_caller_keeps_never_sees_other_bytes_also_after_stop() -> None:
    async with running(forked(Each(handlers.make_large))) as flow:
        image = (await flow.process(Job(number=77, size=100_000))).image
        part = image[1000:2000].reshape(10, 100)[::2]
        del image
        for number in range(20):
            await flow.process(Job(number=number, size=100_000))
        assert (part == 77).all()
        kept = part[1:].view(np.int8)
        del part
        await fresh(flow)
        assert blocks(flow) == 1
        # Read after the stop; no other process holds it.
        survivor = kept.copy()
        del kept
    assert (survivor == 77).all()


async def test_a_view_stays_valid_after_the_flow_has_stopped() -> None:
    flow = forked(Each(handlers.make_large))
    async with flow:
        task = await flow.process(Job(number=77, size=100_000))
    assert (task.image == 77).all()
    async with flow:  # another arena
        for number in range(5):
            await flow.process(Job(number=number, size=100_000))
    assert (task.image == 77).all()


async def test_a_view_that_a_handler_keeps_holds_its_block_until_it_lets_go() -> None:
    async with running(forked(Keeper())) as flow:
        sums = []
        for number in range(4):
            image = np.full(50_000, number + 1, np.uint8)
            sums.append(int(image.sum()))
            task = await flow.process(Job(image=image, keep=True, let_go=False))
            assert task.kept_sums == sums
        await fresh(flow)
        assert blocks(flow) == 4
        for _ in range(20):
            task = await flow.process(Job(image=np.full(50_000, 200, np.uint8), keep=False, let_go=False))
            assert task.kept_sums == sums
        await fresh(flow)
        assert blocks(flow) == 4
        await flow.process(Job(image=None, keep=False, let_go=True))
        await eventually(lambda: blocks(flow) == 0)


# Limits


async def test_a_full_arena_is_an_error_and_then_works_again() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        kept = await flow.process(Job(image=np.ones(3 * MIB // 2, np.uint8)))
        with pytest.raises(ArenaFull, match=f"full: {MIB} bytes.*of {2 * MIB} bytes.*memory_limit") as caught:
            await flow.process(Job(image=np.ones(MIB, np.uint8)), 0.3)
        assert caught.value.retry_after > 0
        assert (kept.image == 1).all()
        del kept
        assert (await flow.process(Job(image=np.ones(MIB, np.uint8)))).image.sum() == MIB


async def test_what_can_never_fit_is_refused_at_once() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=MIB)) as flow:
        with pytest.raises(ArenaFull):
            await asyncio.wait_for(flow.process(Job(image=np.ones(2 * MIB, np.uint8)), 300), DEADLINE / 4)


async def test_a_caller_waits_for_room_until_a_view_is_let_go() -> None:
    async with running(forked(Each(handlers.pass_on), memory_limit=2 * MIB)) as flow:
        kept = [await flow.process(Job(image=np.ones(3 * MIB // 2, np.uint8)))]
        waiting = asyncio.create_task(flow.process(Job(image=np.full(MIB, 2, np.uint8)), 60))
        await asyncio.wait([waiting], timeout=0.1)  # it must not end by itself; no event would tell us
        assert not waiting.done()
        kept.clear()
        image = (await asyncio.wait_for(waiting, DEADLINE)).image
        assert (image == 2).all()
        del image, waiting


async def test_a_worker_waits_for_room_and_then_goes_on(tmp_path: Path) -> None:
    flow = forked(Each(handlers.make_large), memory_limit=2 * MIB)
    async with running(flow):

        async def look(number: int) -> int:
            return int((await flow.process(Job(number=number, size=MIB), 60)).image[-1])

        # The result is released before the coroutine ends; until then the memory does not suffice for the next but one.
        assert await asyncio.gather(*[look(number) for number in range(12)]) == list(range(12))


async def test_a_result_for_which_there_is_no_room_fails_its_task_only() -> None:
    async with running(forked(Each(handlers.make_large), memory_limit=MIB)) as flow:
        (pid,) = pids(flow)
        assert isinstance(await outcome(flow.process(Job(number=1, size=2 * MIB), 30)), ArenaFull)
        assert (await flow.process(Job(number=1, size=MIB // 2))).image.sum() == MIB // 2
        assert pids(flow) == [pid]


async def test_memory_is_used_again_and_does_not_grow_with_the_number_of_tasks() -> None:
    async with running(forked(FlowStep(Each(handlers.make_large), nprocs=2))) as flow:
        for number in range(60):
            task = await flow.process(Job(number=number, size=MIB, payload=b"x" * MIB))
            assert task.image[-1] == number
            del task
        assert flow.statistics().arena.touched <= 12 * MIB


async def test_nothing_is_named_in_dev_shm(tmp_path: Path) -> None:
    names = set(os.listdir("/dev/shm"))
    gate = Gate(tmp_path)
    async with running(forked(Each(handlers.enter_gate))) as flow:
        task = asyncio.create_task(flow.process(Job(image=picture(), gate=gate), 60))
        await eventually(gate.is_entered)
        assert not {name for name in os.listdir("/dev/shm") if "aqueduct" in name} - names
        gate.open()
        await task
        del task


# share_value


async def test_a_shared_array_may_be_written_in_place_and_everybody_sees_it() -> None:
    async with running(forked(Each(handlers.write_into_image), Each(handlers.sum_up))) as flow:
        task = Job(image=picture(400, 300))
        task.share_value("image")
        image = task.image
        await flow.process(task)
        assert (image == 7).all()
        assert task.total == 7 * image.size
        task.image[0, 0] = 9
        assert image[0, 0] == 9
        del task, image


async def test_a_small_array_is_shared_when_asked() -> None:
    async with running(forked(Each(handlers.write_into_image))) as flow:
        image = np.zeros(4, np.uint8)
        task = Job(image=image)
        task.share_value("image")
        await flow.process(task)
        assert (task.image == 7).all()
        assert (image == 0).all()
        del task


async def test_share_value_before_the_start_is_done_when_the_task_goes() -> None:
    task = Job(image=picture(400, 300))
    task.share_value("image")
    async with running(forked(Each(handlers.write_into_image))) as flow:
        await flow.process(task)
        assert (task.image == 7).all()
        del task


async def test_a_field_may_be_shared_while_several_flows_run() -> None:
    one, two = forked(Each(handlers.write_into_image)), forked(Each(handlers.write_into_image))
    async with running(one), running(two):
        for flow in (one, two):
            task = Job(image=picture(400, 300))
            task.share_value("image")
            await flow.process(task)
            assert (task.image == 7).all()
            del task


@pytest.mark.parametrize("index", [0, 1], ids=["older", "newer"])
async def test_the_caller_sees_writes_at_once_in_whichever_flow(tmp_path: Path, index: int) -> None:
    gate = Gate(tmp_path)
    flows = [forked(Each(handlers.write_into_image, handlers.enter_gate)) for _ in range(2)]
    async with running(flows[0]), running(flows[1]):
        task = Job(image=picture(400, 300), gate=gate)
        task.share_value("image")
        processing = asyncio.create_task(flows[index].process(task, 60))
        await eventually(gate.is_entered)
        assert (task.image == 7).all()
        gate.open()
        await processing
        del task, processing


async def test_a_task_goes_from_one_flow_to_another() -> None:
    one, two = forked(Each(handlers.make_large)), forked(Each(handlers.sum_up, handlers.look_at_payload))
    async with running(one), running(two):
        task = await one.process(Job(number=3, size=100_000, payload=b"x" * 50_000))
        await two.process(task)
        assert (task.total, task.length) == (300_000, 50_000)
        await eventually(lambda: blocks(one) == 0)
        assert blocks(two) == 2
        del task


async def test_a_shared_field_that_a_handler_replaces_is_not_lost() -> None:
    async with running(forked(Each(handlers.replace_image))) as flow:
        task = Job(image=np.zeros((100, 300), np.uint8))
        task.share_value("image")
        await flow.process(task)
        assert (task.image == 1).all()
        await flow.process(task)
        assert (task.image == 2).all()
        del task


async def test_a_handler_may_share(tmp_path: Path) -> None:
    flow = forked(Each(handlers.make_large, handlers.share_image), Each(handlers.write_into_image))
    async with running(flow):
        task = await flow.process(Job(number=1, size=100_000))
        assert (task.image == 7).all()
        del task


@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_shared_bytes_are_one_block_and_copied_when_touched(kind: Any) -> None:
    async with running(forked(Each(handlers.tell_whether_copied), Each(handlers.look_at_payload))) as flow:
        task = Job(payload=kind(b"abc" * 100))
        task.share_value("payload")
        await flow.process(task)
        assert (task.was_copied, task.kind, task.length) == (False, kind.__name__, 300)
        assert task.payload == b"abc" * 100
        del task


async def test_shared_bytes_are_replaced_and_deleted_like_any_field() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        task = _with_shared_payload()
        task.payload = b"new"
        await flow.process(task)
        assert task.payload == b"new"
        for is_looked_at in (True, False):
            task = _with_shared_payload()
            assert not is_looked_at or task.payload
            del task.payload
            with pytest.raises(AttributeError, match="'Photo' object has no attribute 'payload'"):
                _ = task.payload
            with pytest.raises(AttributeError, match="'Photo' object has no attribute 'payload'"):
                del task.payload
            await flow.process(task)
            assert not hasattr(task, "payload")
        del task


async def test_shared_bytes_of_one_task_do_not_change_what_others_have() -> None:
    async with running(forked(Each(handlers.pass_on))):
        task = _with_shared_payload()
        assert not hasattr(Photo, "payload")
        other = Photo()
        with pytest.raises(AttributeError, match="'Photo' object has no attribute 'payload'"):
            _ = other.payload
        other.payload = 5
        assert (other.payload, task.payload) == (5, PAYLOAD)
        del other.payload
        assert not hasattr(other, "payload")
        assert _declare_dataclass().__match_args__ == ("payload",)
        with pytest.raises(TypeError, match="payload"):  # it has got no default by that
            _declare_dataclass()()
        del task


def test_fields_of_tasks_are_read_and_written_the_fast_way() -> None:
    hooks = {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}
    assert not hooks & vars(BaseTask).keys()


PAYLOAD = b"abc" * 100

DEFAULT = b"no payload"


@dataclass
class Carrier(BaseTask):
    """A task with a default value, which the class has as well."""

    payload: bytes = DEFAULT


class Heavier(Carrier):
    """One that inherits the default."""


class Counting(BaseTask):
    """A task with a property of the name of a field."""

    reads = 0

    def __init__(self, payload: bytes) -> None:
        self.__dict__["payload"] = payload

    @property
    def payload(self) -> Any:
        Counting.reads += 1
        return self.__dict__["payload"]


class Photo(Job):
    """A task of a class of its own, for what sharing does to classes."""


def _with_shared_payload() -> Photo:
    task = Photo(payload=PAYLOAD)
    task.share_value("payload")
    return task


def _declare_dataclass() -> Any:
    @dataclass
    class Declared(Photo):
        payload: bytes

    return Declared


async def test_fortran_order_survives_sharing() -> None:
    async with running(forked(Each(handlers.describe_image))) as flow:
        task = Job(image=np.asfortranarray(picture(40, 30, dtype="float64")))
        task.share_value("image")
        await flow.process(task)
        assert task.seen["f"]
        assert task.seen["writeable"]
        assert task.seen["address"] % 64 == 0
        del task


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "Job.field is of type str; only numpy arrays, bytes and bytearray can be shared"),
        ([1, 2], "type list"),
        (np.array([{}], dtype=object), "array of Python objects"),
        (np.zeros(3, dtype=[("a", "O")]), "array of Python objects"),
    ],
)
@pytest.mark.parametrize("is_running", [True, False])
async def test_what_cannot_be_shared_is_refused_by_name(value: Any, message: str, is_running: bool) -> None:
    if is_running:
        async with running(forked(Each(handlers.pass_on))):
            with pytest.raises(ValueError, match=message):
                Job(field=value).share_value("field")
    else:
        with pytest.raises(ValueError, match=message):
            Job(field=value).share_value("field")


async def test_an_unknown_and_a_shared_field_are_refused_by_name() -> None:
    async with running(forked(Each(handlers.pass_on))):
        task = Job(payload=b"x" * 10)
        with pytest.raises(ValueError, match="Job has no field 'paylod' to share; its fields: payload, task_id"):
            task.share_value("paylod")
        task.share_value("payload")
        with pytest.raises(ValueError, match=r"Job\.payload is shared already"):
            task.share_value("payload")
        del task


async def test_an_empty_array_and_a_scalar_can_be_shared() -> None:
    async with running(forked(Each(handlers.describe_image))) as flow:
        for image in (np.zeros((0, 3)), np.array(5.0)):
            task = Job(image=image)
            task.share_value("image")
            await flow.process(task)
            assert np.array_equal(task.image, image)
            assert task.seen["shape"] == image.shape
        del task


# share_value_with_data


class Stream:
    """What aiohttp's ``request.content`` offers, in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        return self._pieces.pop(0) if self._pieces else b""


async def iterate(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize("source", [Stream, iterate])
@pytest.mark.parametrize("size", [30_000, None])
async def test_a_stream_becomes_a_field(source: Any, size: int | None) -> None:
    async with running(forked(Each(handlers.tell_whether_copied), Each(handlers.look_at_payload))) as flow:
        task = Job()
        await task.share_value_with_data("payload", source(b"a" * 10_000, b"b" * 10_000, b"c" * 10_000), size)
        await flow.process(task)
        assert (task.was_copied, task.kind, task.length) == (False, "bytes", 30_000)
        assert task.payload == b"a" * 10_000 + b"b" * 10_000 + b"c" * 10_000
        del task


@pytest.mark.parametrize("source", [Stream, iterate])
@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize(("size", "message"), [(25_000, "payload.*25000"), (40_000, "40000 bytes.*30000 arrived")])
async def test_a_stream_of_another_length_is_refused(source: Any, is_running: bool, size: int, message: str) -> None:
    async def share() -> Job:
        task = Job()
        with pytest.raises(ValueError, match=message):
            await task.share_value_with_data("payload", source(b"a" * 15_000, b"b" * 15_000), size)
        return task

    if is_running:
        async with running(forked(Each(handlers.pass_on))) as flow:
            task = await share()
            assert not hasattr(task, "payload")
            await fresh(flow)
            assert blocks(flow) == 0
    else:
        assert not hasattr(await share(), "payload")


@pytest.mark.own
async def test_a_stream_that_is_cancelled_leaves_no_field_and_no_block() -> None:
    async with running(forked(Each(handlers.pass_on))) as flow:
        began = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"a" * 100
            began.set()
            await asyncio.Event().wait()

        task = Job()
        sharing = asyncio.create_task(task.share_value_with_data("payload", endless(), 100_000))
        await began.wait()
        assert blocks(flow) == 1
        sharing.cancel()
        await asyncio.wait([sharing])
        del sharing
        assert not hasattr(task, "payload")
        await eventually(lambda: blocks(flow) == 0)


async def test_an_empty_stream_is_an_empty_field() -> None:
    async with running(forked(Each(handlers.look_at_payload))) as flow:
        task = Job()
        await task.share_value_with_data("payload", Stream(), 0)
        await flow.process(task)
        assert (task.length, task.payload) == (0, b"")
        del task
