"""The threads of numeric libraries that were loaded before a fork, when they read no variables any more."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

_VARIABLES = {"openmp": ("OMP_NUM_THREADS",), "blas": ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}


def find_thread_controls() -> None:
    """Import threadpoolctl, if it is installed: once before the forks, since it takes some milliseconds."""
    with contextlib.suppress(ImportError):
        importlib.import_module("threadpoolctl")


def apply_thread_variables() -> None:
    """Give libraries that are loaded as many threads as variables of the environment say.

    They were loaded with one thread each: a fork has none of the threads of its parent, and OpenMP waits for ever for
    those of a pool that existed before (GCC bug 58378). Without threadpoolctl they keep one thread, but for PyTorch.
    """
    limits = {api: count for api, names in _VARIABLES.items() if (count := _count(names))}
    control: Any = sys.modules.get("threadpoolctl")
    if control is not None and limits:
        control.threadpool_limits(limits)
    torch: Any = sys.modules.get("torch")
    if torch is not None and "openmp" in limits and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(limits["openmp"])


def renew_random_states() -> None:
    """Seed the global generator of numpy anew, if it is loaded: else all workers would draw the same numbers.

    Python's own does this at each fork.
    """
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _count(names: tuple[str, ...]) -> int:
    for name in names:
        value = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP: a list for nested regions
        if value.isdigit() and int(value):
            return int(value)
    return 0
