"""Reducers for arrays and other objects with a buffer, which pickle them without a copy of their bytes.

numpy is not imported here: where no other module has imported it, there are no arrays.
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
"""Formats that `memoryview.cast` accepts."""


def array_type() -> type | None:
    """Return ``numpy.ndarray``; None where numpy is not imported."""
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.ndarray


def typecode(value: Any) -> str:
    """Return a code from which, with shape and bytes, an array can be rebuilt; empty where these are not enough."""
    dtype = value.dtype
    if not value.flags.c_contiguous or dtype.kind not in "biufc" or dtype.metadata is not None:
        return ""
    # `char` is stored, while `str` is computed.
    code: str = dtype.char if dtype.isnative else dtype.str
    return code


def array_at(lease: Lease, position: int, code: str, shape: tuple[int, ...]) -> Any:
    """Return an array over bytes in a block, without a copy."""
    view = memoryview(lease)
    return _array_over(view if lease.shared else view.toreadonly(), shape, code, None, position)


def reduce_array(value: Any) -> Any:
    """Reduce a numpy array for a pickler, so that its bytes can be kept out of the pickle and come back as a view."""
    if value.dtype.kind in "mM":
        # numpy exports no buffer of times, so they travel as integers.
        return _view_as, (value.view(value.dtype.str[0] + "i8"), value.dtype)
    if code := typecode(value):
        # numpy's own reducer takes three times as long.
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
    """Return the bytes of a block that a strided array spans, and the position of its first element in them."""
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
        # For `flags.writeable = True`, `ndarray` checks not the memoryview but the exporter of its memory, and ctypes
        # always exports for writing. An array of bytes between the two has the flag of the view.
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
    """Return an array whose memoryview equals the given one: `memoryview.cast` does not support all formats.

    Raises:
        TaskNotPicklable: numpy does not support the format either.
    """
    import numpy as np

    text = f"a memoryview of {view.ndim} dimensions and format {view.format!r} has no equal in another process"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some types of ctypes have a wrong format
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
    """A ``dispatch_table`` for picklers that falls back to the reducers of `copyreg`.

    A plain dict would hide those: compiled patterns, unions of types, numpy's functions.
    """

    # A method in C, because it is called for each object without an entry.
    __missing__ = copyreg.dispatch_table.__getitem__


buffer_reducers = Reducers({memoryview: _reduce_memoryview, array.array: _reduce_array})
"""Reducers for objects with a buffer other than numpy arrays."""


def make_reducers() -> Reducers:
    """Return `buffer_reducers`, with an entry for numpy arrays where numpy is imported."""
    table = Reducers(buffer_reducers)
    if (kind := array_type()) is not None:
        table[kind] = reduce_array
    return table
