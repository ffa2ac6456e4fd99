"""Arrays, and other objects with a buffer: how they travel, so that their bytes can stay where they are.

numpy is not imported for those who do not use it: where nobody has imported it, there is no array.
"""

from __future__ import annotations

import array
import copyreg
import pickle
import sys
from collections.abc import Callable
from typing import Any

from .arena import THRESHOLD, lease_of
from .mapping import Lease


def array_type() -> type | None:
    """Return numpy's class of arrays, whose objects are pickled by `reducers` from now on; None without numpy."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if numpy.ndarray not in reducers:
        reducers[numpy.ndarray] = _reduce_ndarray
    found: type = numpy.ndarray
    return found


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
    import numpy as np

    view = memoryview(lease)
    return np.ndarray(shape, code, view if lease.shared else view.toreadonly(), position)


def _reduce_ndarray(value: Any) -> Any:
    if code := typecode(value):
        # What numpy does for itself takes three times as long.
        return type(value), (value.shape, code, pickle.PickleBuffer(value))
    if value.flags.forc or value.dtype.hasobject or value.dtype.names or value.dtype.kind in "mMV":
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
    return _rebuild_ndarray, (pickle.PickleBuffer(buffer), value.dtype.str, value.shape, value.strides, start)


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


def _rebuild_ndarray(buffer: Any, dtype: str, shape: Any, strides: Any, start: int) -> Any:
    import numpy as np

    return np.ndarray(shape, dtype, buffer, start, strides)


def _reduce_memoryview(value: memoryview) -> Any:
    if not value.c_contiguous:
        value = memoryview(value.tobytes()).cast("B").cast(value.format, value.shape)  # type: ignore[call-overload]
    return _rebuild_memoryview, (pickle.PickleBuffer(value), value.format, value.shape)


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

reducers = Reducers(buffer_reducers)
"""For these and for arrays of numpy, once there are any."""
