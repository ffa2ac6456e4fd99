"""Which tasks and fields are accepted, and what becomes of them on their way through a flow."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastapi_aqueduct import BaseTask, ConfigurationError
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.task import shared_memories

from .. import handlers
from ..handlers import Each, Job, Trimmed
from ..support import forked, outcome, pids, running

# Classes


class Slots:
    __slots__ = ("hidden",)


class Reduced:
    def __reduce__(self) -> Any:
        return Reduced, ()


@pytest.mark.parametrize(
    ("bases", "namespace", "message"),
    [
        ((BaseTask,), {"__slots__": ("a",)}, r"Made: a task cannot have __slots__; its fields"),
        ((BaseTask,), {"__slots__": "a"}, r"Made: a task cannot have __slots__; its fields"),
        ((Slots, BaseTask), {}, r"Made: a task cannot have __slots__, as its base Slots has"),
        ((BaseTask,), {"__reduce__": lambda self: (Job, ())}, r"Made: a task cannot have __reduce__: its fields"),
        ((Reduced, BaseTask), {}, r"Made: a task cannot have __reduce__, as its base Reduced has"),
        ((BaseTask,), {"__reduce_ex__": lambda self, protocol: (Job, ())}, r"__reduce_ex__.*__getstate__"),
        ((BaseTask,), {"__getnewargs__": lambda self: ()}, r"Made: a task cannot have __getnewargs__"),
    ],
)
def test_a_class_of_which_something_would_be_lost_is_refused(bases: Any, namespace: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        type("Made", bases, namespace)


@pytest.mark.parametrize("name", ["emit", "finish", "is_cancelled", "fail", "metrics"])
def test_a_field_that_would_get_a_method_as_its_default_is_refused(name: str) -> None:
    message = f"Made: a field cannot have the name `{name}`, which is that of BaseTask.{name}: rename it"
    with pytest.raises(ConfigurationError, match=message):
        type("Made", (BaseTask,), {"__annotations__": {name: str}})
    # Without the import from __future__: from Python 3.14 on, such a class has no __annotations__ before it is asked.
    known_later = "Unknown" if sys.version_info >= (3, 14) else "str"
    code = compile(f"class Made(BaseTask):\n    {name}: {known_later}", "<test>", "exec", dont_inherit=True)
    with pytest.raises(ConfigurationError, match=message):
        exec(code, {"BaseTask": BaseTask})
    made = type("Made", (BaseTask,), {"__annotations__": {name: str}, name: ""})  # as before there was such a method
    type("Derived", (made,), {"__annotations__": {name: str}})


def test_classes_that_lose_nothing_are_accepted() -> None:
    class Empty:
        __slots__ = ()

    @dataclass
    class Data(Empty, BaseTask):
        number: int

    type("Made", (BaseTask,), {"__slots__": (), "__getstate__": lambda self: {}})
    assert Data(3).number == 3


async def test_the_state_of_a_class_travels_through_a_flow() -> None:
    async with running(forked(Each(handlers.add_one), Each(handlers.add_one))) as flow:
        task = Trimmed(1, np.arange(9_000))
        before = task.task_id
        await flow.process(task)
        assert (task.number, task.seen, task.task_id) == (3, 3, before)
        assert len(task.metrics.steps) == 2
        assert task.lock.acquire(blocking=False)
        await flow.process(task)
        assert task.number == 5
        del task


async def test_a_task_that_its_fields_refer_to_comes_back_to_itself() -> None:
    """In the workers it is a reference cycle, which keeps the array until the idle flow reclaims memory."""
    timing = Timing(idle_time=0.1)
    async with running(forked(Each(handlers.add_node), Each(handlers.pass_on), timing=timing)) as flow:
        task: Any = Job(image=np.zeros(50_000))
        task.node = handlers.Node(task)
        await flow.process(task)
        assert task.node.task is task
        assert task.nodes[0] is task.node and task.nodes[1].task is task
        task.__dict__.clear()


# Read-only inputs


async def test_making_an_input_writeable_is_an_error_and_no_crash() -> None:
    async with running(forked(Each(handlers.make_writeable, handlers.write_into_image))) as flow:
        before = pids(flow)
        error: Any = await outcome(flow.process(Job(image=np.zeros(50_000))))
        assert isinstance(error, ValueError)
        assert "WRITEABLE" in str(error)
        assert "share_value" in error.__notes__[0]
        assert pids(flow) == before


async def test_writing_into_an_input_is_explained() -> None:
    async with running(forked(Each(handlers.write_into_image))) as flow:
        error: Any = await outcome(flow.process(Job(image=np.zeros(50_000))))
        assert str(error) == "assignment destination is read-only"
        assert "Large fields of a task arrive read-only" in error.__notes__[0]
        assert "share_value" in error.__notes__[0]


# share_value


class Blob(bytes):
    """Bytes with a name."""


class Tagged(np.ndarray[Any, Any]):
    """An array with a tag."""


UNSHAREABLE: dict[str, Any] = {
    "a masked array": np.ma.masked_array(np.zeros(9), np.ones(9, bool)),
    "records": np.rec.array([(1, 2.0)]),
    "a subclass": np.zeros(3).view(Tagged),
    "a number of numpy": np.float64(3),
    "bytes with more": Blob(b"abc"),
    "a picture": Image.new("L", (8, 8)),
    "objects": np.array([{}, None], dtype=object),
    "a list": [1, 2],
}
if hasattr(np.dtypes, "StringDType"):  # since numpy 2
    UNSHAREABLE["texts of any length"] = np.array(["a", "b"], dtype=np.dtypes.StringDType())


@pytest.mark.parametrize("kind", UNSHAREABLE)
async def test_what_would_lose_something_is_not_shared(kind: str) -> None:
    for _ in ("before a flow runs", "while it runs"):
        task: Any = Job(value=UNSHAREABLE[kind])
        with pytest.raises(ValueError, match=r"Job\.value is"):
            task.share_value("value")
        assert task.value is UNSHAREABLE[kind]
    async with running(forked(Each(handlers.pass_on))):
        with pytest.raises(ValueError, match=r"Job\.value is"):
            Job(value=UNSHAREABLE[kind]).share_value("value")


@pytest.mark.parametrize("value", [np.zeros(5), b"x" * 20_000, bytearray(b"abc")], ids=["array", "bytes", "bytearray"])
async def test_a_field_that_is_shared_already_is_refused(value: Any) -> None:
    early: Any = Job(value=value)
    early.share_value("value")
    with pytest.raises(ValueError, match=r"Job\.value is shared already"):
        early.share_value("value")
    early.value = early.value[:]  # another one
    assert not shared_memories
    async with running(forked(Each(handlers.pass_on))) as flow:
        task: Any = Job(value=value)
        task.share_value("value")
        with pytest.raises(ValueError, match=r"Job\.value is shared already"):
            task.share_value("value")
        await flow.process(task)
        with pytest.raises(ValueError, match=r"Job\.value is shared already"):
            task.share_value("value")
        task.value = value
        task.share_value("value")
        del task


async def test_bytes_that_were_only_looked_at_are_shared_still() -> None:
    async with running(forked(Each(handlers.pass_on))):
        task: Any = Job(value=b"abc")
        task.share_value("value")
        assert task.value == b"abc"
        with pytest.raises(ValueError, match="shared already"):
            task.share_value("value")
        del task


async def test_what_replaces_a_field_that_was_to_be_shared_is_not() -> None:
    task: Any = Job(value=np.zeros(5))
    task.share_value("value")
    task.value = None
    async with running(forked(Each(handlers.pass_on))) as flow:
        await flow.process(task)
        assert task.value is None
