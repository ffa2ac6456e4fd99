"""The environment of a worker: variables that must be set before its libraries are imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...worker_options import WorkerOptions

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables from which numeric libraries read the size of their thread pools while they are imported."""

_PLAIN = WorkerOptions()


class WorkerEnvironment(NamedTuple):
    """What one worker gets of its machine.

    Attributes:
        variables: The environment variables to set.
        threads: Its share of the cores.
        device: What a library must be told for its device; None if devices are not dealt.
        device_id: The number or UUID that the device has on the machine; None if devices are not dealt.
    """

    variables: Mapping[str, str]
    threads: int
    device: str | None = None
    device_id: str | None = None


NO_ENVIRONMENT = WorkerEnvironment({}, 1)
"""That of a worker that gets nothing."""


def make_environment(
    options: WorkerOptions | None, index: int, share: int, environ: Mapping[str, str]
) -> WorkerEnvironment:
    """Return what a worker gets.

    Args:
        options: What its step declares.
        index: The index of the worker.
        share: Threads of numeric libraries, if the step declares none: cores x workers of them would be slower.
        environ: The environment of this process. The thread counts that the user has set in it are left alone.

    Raises:
        ConfigurationError: The step declares a device that there is not, or variables that cannot be.
    """
    options = options or _PLAIN
    threads = options.threads or share
    variables = {name: str(threads) for name in THREAD_VARIABLES if name not in environ}
    device = options.device(index)
    if device is not None:
        device = device.among(environ)
        variables |= device.variables
    variables |= options.variables(index)
    count = _thread_count({**environ, **variables}) or threads
    if device is None:
        return WorkerEnvironment(variables, count)
    return WorkerEnvironment(variables, count, device.inside, device.id)


def _thread_count(environ: Mapping[str, str]) -> int:
    """Return what OMP_NUM_THREADS says, which may be a list for nested levels; 0 if that is no number."""
    first = environ.get(THREAD_VARIABLES[0], "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0
