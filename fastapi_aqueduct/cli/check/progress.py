"""How a check tells what it does."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Gets what is done now, in words."""
