"""Whose a job is: the value of a dependency, as text."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ...exceptions import InvalidArgument, got


def owner_text(value: Any) -> str:
    """Return the text by which the store knows an owner; empty for none.

    Raises:
        InvalidArgument: The value is no name or number, so it may be another one with the next request.
    """
    if value is None:
        return ""
    if isinstance(value, (str, int, UUID)):
        return str(value)
    raise InvalidArgument(
        f"Jobs(owner=...) needs a dependency that returns the id or the name of the client, {got(value)}: make one of "
        "yours, `def user_id(user: User = Depends(user)) -> int: return user.id`"
    )
