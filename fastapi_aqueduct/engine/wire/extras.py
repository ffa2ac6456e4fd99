"""What travels beside the fields of a task, as bytes: `Encoded.extras`.

The caller packs it, each worker on the way unpacks it, and the steps in between pass it on untouched.
"""

from __future__ import annotations

import pickle
from typing import NamedTuple


class Extras(NamedTuple):
    """What travels beside the fields of a task.

    Attributes:
        values: The values of context variables, each pickled, by the position of the variable in the flow's
            declaration. Those that the caller has not set are left out.
        trace: The trace context of the caller, in a form that sender and reader agree on; empty without one.
    """

    values: dict[int, bytes]
    trace: bytes = b""


def pack_extras(values: dict[int, bytes], trace: bytes = b"") -> bytes:
    """Return extras as bytes; empty when there are none."""
    return pickle.dumps((values, trace), 5) if values or trace else b""


def unpack_extras(data: bytes) -> Extras:
    """Read extras. Unpickles nothing of user code."""
    return Extras(*pickle.loads(data)) if data else Extras({})
