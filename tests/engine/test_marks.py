"""Marks of tasks as bytes, and how fields and functions become keys and costs."""

from __future__ import annotations

import struct
import subprocess
import sys
from enum import Enum, StrEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct import ConfigurationError, Cost, FlowStep
from fastapi_aqueduct.engine.marks import LONGEST_KEY, NO_MARKS, Marker, Marks, canonical

from ..handlers import Each, Job

keys = st.binary(max_size=255)
parts = (
    keys,
    st.integers(0, 2**64 - 1),
    keys,
    keys,
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
)
of_a_step = st.builds(Marks, *parts, st.just(()))
marks = st.builds(Marks, *parts, st.lists(st.tuples(st.integers(0, 61), of_a_step), max_size=3).map(tuple))
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


class Size(Enum):
    SMALL = 1


class Language(StrEnum):
    GERMAN = "de"


@given(marks)
def test_marks_come_out_as_they_went_in(sent: Marks) -> None:
    assert Marks.unpack(sent.pack()) == sent


def test_no_marks_are_no_bytes() -> None:
    assert NO_MARKS.pack() == b"" and Marks.unpack(b"") is NO_MARKS


@given(marks, st.data())
def test_marks_that_are_cut_off_or_longer_are_refused(sent: Marks, data: Any) -> None:
    packed = sent.pack()
    for changed in (packed[: data.draw(st.integers(1, len(packed) or 1)) - 1], packed + b"x"):
        if changed not in (packed, b""):
            with pytest.raises(struct.error):
                Marks.unpack(changed)


@given(values, values)
def test_keys_are_equal_exactly_if_values_and_their_types_are(first: Any, second: Any) -> None:
    assert len(canonical(first)) <= LONGEST_KEY
    assert (canonical(first) == canonical(second)) == (repr(first) == repr(second))


def test_a_key_is_the_same_in_every_process() -> None:
    value = ("page", 3, 0.5, b"x" * 100, None, True, "interned", "é")
    code = f"from fastapi_aqueduct.engine.marks import canonical; print(canonical({value!r}).hex())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == canonical(value).hex()


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Size.SMALL, 1),
        (Language.GERMAN, "de"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.str_("de"), "de"),
        ((Size.SMALL, np.int8(3)), (1, 3)),
    ],
)
def test_what_stands_for_a_plain_value_is_the_same_key(value: Any, same: Any) -> None:
    assert canonical(value) == canonical(same)


@pytest.mark.parametrize("value", [{1}, {"a": 1}, object(), np.zeros(2), Job(), ({1},)])
def test_what_has_no_canonical_form_is_refused_with_the_name_of_the_step(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="batch_key of step embed: a key must be a text, a number"):
        Marker("embed", batch_key=lambda task: value).read(Job())


@pytest.mark.parametrize("value", [-1, 1.5, "3", None, 2**64])
def test_a_cost_that_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="batch_cost of step embed needs a whole number >= 0, got"):
        Marker("embed", cost=lambda task: value).read(Job())


def test_a_field_that_a_task_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_key of step embed is the field 'bucket', which this Job does"):
        Marker("embed", batch_key="bucket").read(Job())
    assert Marker("embed", cost="number").read(Job(number=7)).cost == 7


async def bucket_of(task: Job) -> int:
    return 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_key": "not a field"}, "batch_key of the step with Each needs the name of a field, or a function"),
        ({"batch_key": 3}, "needs the name of a field, or a function of a task, got 3"),
        ({"batch_key": lambda task: 1}, "batch_key of the step with Each is a lambda"),
        ({"batch_key": bucket_of}, "batch_key of the step with Each is declared with `async def`"),
        ({"batch_cost": 3}, "the step with Each needs a Cost as batch_cost"),
    ],
)
def test_keys_and_costs_that_cannot_work_are_refused_at_once(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FlowStep(Each(), **options)


@pytest.mark.parametrize(("of", "limit"), [("tokens", 0), ("tokens", True), ("tokens", 1.5), ("no field", 3), (3, 3)])
def test_a_cost_that_cannot_work_is_refused_at_once(of: Any, limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="limit >= 1|name of a field"):
        Cost(of, limit=limit)
