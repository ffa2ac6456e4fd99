"""Arrays, and other objects with a buffer: how they travel, so that their bytes can stay where they are.

numpy is not imported for those who do not use it: where nobody has imported it, there is no array.
"""

from __future__ import annotations

import array
import copyreg
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ...exceptions import TaskNotPicklable
from ..memory.arena import THRESHOLD
from ..memory.mapping import Lease, lease_of

_CASTABLE = frozenset("cbBhHiIlLqQnNfdP?")
"""Formats that `memoryview.cast` takes."""


def array_type() -> type | None:
    """Return numpy's class of arrays; None where numpy is not imported."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.ndarray


def typecode(value: Any) -> str:
    """Return what, with its shape and its bytes, makes an array again; nothing when that is not all there is to it."""
    dtype = value.dtype
    if not value.flags.c_contiguous or dtype.kind not in "biufc" or dtype.metadata is not None:
        return ""
    # The letter is there, but `str` is made anew.
    code: str = dtype.char if dtype.isnative else dtype.str
    return code


def array_at(lease: Lease, position: int, code: str, shape: tuple[int, ...]) -> Any:
    """Make an array of what lies in a block, without a copy."""
    view = memoryview(lease)
    return _array_over(view if lease.shared else view.toreadonly(), shape, code, None, position)


def reduce_array(value: Any) -> Any:
    """Reduce an array of numpy, for a pickler, so that its bytes can leave the stream and come back as a view."""
    if value.dtype.kind in "mM":
        # numpy exports no buffer of times; their numbers travel as any others do.
        return _view_as, (value.view(value.dtype.str[0] + "i8"), value.dtype)
    if code := typecode(value):
        # What numpy does for itself takes three times as long.
        return _array_over, (pickle.PickleBuffer(value), value.shape, code)
    if value.flags.forc or value.dtype.hasobject or value.dtype.names or value.dtype.kind == "V":
        return value.__reduce_ex__(5)
    span = _span_in_arena(value)
    if span is None:
        if value.nbytes < THRESHOLD:
            return value.__reduce_ex__(5)
        value = value.copy(order="K")  # keeps the order of the axes, drops the gaps
        if value.flags.forc:
            return value.__reduce_ex__(5)
        span = memoryview(value.ravel(order="K")), 0
    buffer, start = span
    return _array_over, (pickle.PickleBuffer(buffer), value.shape, value.dtype.str, value.strides, start)


def _span_in_arena(value: Any) -> tuple[memoryview, int] | None:
    """Return the bytes of a block that a strided array touches, and where in them its first element lies."""
    lease = lease_of(value)
    if lease is None or not value.size:
        return None
    first = value.__array_interface__["data"][0]
    reaches = [(size - 1) * stride for size, stride in zip(value.shape, value.strides, strict=True)]
    low = first + sum(reach for reach in reaches if reach < 0)
    high = first + sum(reach for reach in reaches if reach > 0)
    start = lease.mapping.position(lease, low)
    length = high + value.itemsize - low
    return lease.mapping.view(lease, start, length), first - low


def _array_over(buffer: Any, shape: Any, dtype: str, strides: Any = None, start: int = 0) -> Any:
    import numpy as np

    if isinstance(buffer, memoryview) and buffer.readonly and buffer.nbytes:
        # Asked for `flags.writeable = True`, `ndarray` looks past a memoryview at what exports its memory, and ctypes
        # always exports it for writing. An array of bytes between the two has the flag of the view.
        buffer = np.frombuffer(buffer, np.uint8)
    return np.ndarray(shape, dtype, buffer, start, strides)


def _view_as(numbers: Any, dtype: Any) -> Any:
    return numbers.view(dtype)


def _reduce_memoryview(value: memoryview) -> Any:
    is_plain = value.format == "B" and value.ndim == 1
    if not is_plain and not (value.nbytes and value.ndim and value.format.removeprefix("@") in _CASTABLE):
        return memoryview, (_array_of(value),)
    if not value.c_contiguous:
        value = memoryview(value.tobytes()).cast("B").cast(value.format, value.shape)  # type: ignore[call-overload]
    return _rebuild_memoryview, (pickle.PickleBuffer(value), value.format, value.shape)


def _array_of(view: memoryview) -> Any:
    """Return an array whose memoryview is the same: `memoryview.cast` cannot make all kinds.

    Raises:
        TaskNotPicklable: numpy cannot make it either.
    """
    import numpy as np

    text = f"a memoryview of {view.ndim} dimensions and format {view.format!r} has no equal in another process"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # ctypes gives some of its types a wrong format
        try:
            array: Any = np.asarray(view)
            same = memoryview(array)
        except Exception as exc:
            raise TaskNotPicklable(text) from exc
    native = str.maketrans("", "", "@=<" if sys.byteorder == "little" else "@=>")
    if (same.format.translate(native), same.itemsize, same.shape) != (
        view.format.translate(native),
        view.itemsize,
        view.shape,
    ):
        raise TaskNotPicklable(text)
    return array


def _rebuild_memoryview(buffer: Any, format: str, shape: Any) -> memoryview:
    view = memoryview(buffer)
    if view.format == format and view.shape == shape:
        return view
    return view.cast("B").cast(format, shape)  # type: ignore[call-overload,no-any-return]


def _reduce_array(value: array.array[Any]) -> Any:
    return _rebuild_array, (value.typecode, pickle.PickleBuffer(value))


def _rebuild_array(typecode: str, buffer: Any) -> array.array[Any]:
    value = array.array(typecode)
    value.frombytes(buffer)
    return value


class Reducers(dict[type, Callable[[Any], Any]]):
    """A pickler's ``dispatch_table``: its own entries, and else what is registered with `copyreg`.

    A plain table would hide the latter: compiled patterns, unions of types, numpy's functions.
    """

    # A method in C, because it is called for each object that is pickled as its class says.
    __missing__ = copyreg.dispatch_table.__getitem__


buffer_reducers = Reducers({memoryview: _reduce_memoryview, array.array: _reduce_array})
"""For objects with a buffer that are no arrays of numpy."""


def make_reducers() -> Reducers:
    """Make a table for these, and for arrays of numpy where it is imported."""
    table = Reducers(buffer_reducers)
    if (kind := array_type()) is not None:
        table[kind] = reduce_array
    return table
