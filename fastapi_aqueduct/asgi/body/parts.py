"""The uploads that a task takes from a request."""

from __future__ import annotations

from typing import NamedTuple


class UploadPart(NamedTuple):
    """One upload: a part of a form, several parts of the same name, or the whole body.

    Attributes:
        name: Name of the constructor's parameter, and of the parts.
        is_required: Whether it must come.
        is_list: Whether several files may come under the name.
        media_types: The types it may have; empty: as the endpoint says.
        max_size: The most bytes that one file may have; None: as many as the body.
    """

    name: str
    is_required: bool
    is_list: bool
    media_types: tuple[str, ...]
    max_size: int | None
