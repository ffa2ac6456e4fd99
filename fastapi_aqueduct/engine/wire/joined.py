"""Joined bodies: an encoded task, and the patches that are to be applied to it when it is decoded.

    JOINED │ part │ part │ ...        part: length of the body │ number of blocks │ positions of the blocks │ body

The first part is the task, each further one a patch. A part refers to its blocks by their positions among those of the
whole, which has each block once. Nothing here reads a body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from ...exceptions import AqueductError
from ..memory.layout import Ref

JOINED = 0x40
"""The first byte. A body that is not joined begins with flags, which are less, or with the opcode of a pickle."""

_PART = struct.Struct("<II")



class MalformedTask(AqueductError):
    """The bytes of a task with patches, or of a patch, make no sense."""


Part = tuple[bytes, Sequence[Ref]]
"""A body and its blocks."""


def join_parts(body: bytes, blocks: Sequence[Ref], patches: Iterable[Part]) -> tuple[bytes, tuple[Ref, ...]]:
    """Append patches to a body; return the whole and its blocks.

    Args:
        body: The body of a task, joined already or not.
        blocks: Its blocks.
        patches: The patches, in the order in which they apply.
    """
    positions: dict[int, int] = {}
    whole: list[Ref] = []

    def place(ref: Ref) -> int:
        position = positions.setdefault(ref.offset, len(whole))
        if position == len(whole):
            whole.append(ref)
        return position

    own = [place(ref) for ref in blocks]
    pieces = [body] if body[0] == JOINED else [bytes([JOINED]), *_pack(body, own)]
    for patch, used in patches:
        pieces += _pack(patch, [place(ref) for ref in used])
    return b"".join(pieces), tuple(whole)


def split_parts(body: bytes, blocks: Sequence[Ref]) -> list[Part]:
    """Return the parts of a joined body.

    Raises:
        MalformedTask: It is malformed.
    """
    parts: list[Part] = []
    at = 1
    try:
        while at < len(body):
            size, count = _PART.unpack_from(body, at)
            at += _PART.size
            positions = struct.unpack_from(f"<{count}I", body, at)
            at += 4 * count
            if len(body) - at < size:
                raise MalformedTask(f"a joined task is cut off: {size - len(body) + at} bytes are missing")
            parts.append((body[at : at + size], [blocks[position] for position in positions]))
            at += size
    except (struct.error, IndexError) as exc:
        raise MalformedTask(f"a malformed joined task: {exc}") from exc
    return parts


def _pack(body: bytes, positions: Sequence[int]) -> list[bytes]:
    head = _PART.pack(len(body), len(positions))
    return [head, struct.pack(f"<{len(positions)}I", *positions), body] if positions else [head, body]
