"""The processors that this process may use."""

from __future__ import annotations

import math
import os

from .cgroup import ControlGroup


def available_cores(group: ControlGroup | None = None) -> int:
    """Return the number of cores that the affinity mask and the container's quota allow.

    Args:
        group: The control group that limits the container; default: that of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = (group or ControlGroup()).cpu_limit()
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))
