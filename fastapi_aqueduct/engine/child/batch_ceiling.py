"""The batch ceiling of a worker: how many tasks of one call fit into memory."""

from __future__ import annotations

from ..wire.exception_pickle import chain_of

FIRST_PROBE = 64
"""Calls with as many tasks as the ceiling allows, after which a larger one is tried."""

LAST_PROBE = 4096
"""The same after many tries without effect: each doubles the number."""

STEP = 8
"""A try has more tasks by this part of the ceiling, and by one at least."""


class BatchCeiling:
    """Remembers with how many tasks a call has run out of memory. The ceiling falls at once and rises slowly.

    A call that fails costs the time of a call, so a larger one is tried after dozens that have succeeded, and after
    twice as many each time that it has failed.

    Attributes:
        most: The most tasks that a call should get; 0: no limit is known.
    """

    def __init__(self) -> None:
        self.most = 0
        self._failed = 0  # the largest number of tasks that has failed
        self._proven = 0  # the number before the try that goes on; 0: none does
        self._calls = 0
        self._needed = FIRST_PROBE

    def note_shortage(self, size: int) -> None:
        """Note that a call has run out of memory.

        Args:
            size: Its number of tasks; 2 at least.
        """
        self._failed = max(self._failed, size)
        if 0 < self._proven < size:
            self.most = self._proven
            self._needed = min(2 * self._needed, LAST_PROBE)
        else:
            self.most = size // 2
            self._needed = FIRST_PROBE
        self._proven = self._calls = 0

    def note_success(self, size: int) -> None:
        """Note that a call has succeeded while there is a ceiling.

        Args:
            size: Its number of tasks.
        """
        if size < self.most:
            return
        if self._proven:
            self._proven = 0
            self._needed = FIRST_PROBE
            if self.most == self._failed:
                self.most = self._failed = 0
                return
        self._calls += 1
        if self._calls < self._needed:
            return
        self._calls = 0
        self._proven = self.most
        self.most = min(self.most + max(1, self.most // STEP), self._failed)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory was short: Python's own, PyTorch's or ONNX Runtime's.

    So does one that was raised because of such an exception. Those of libraries are found by their names, so that none
    is imported.
    """
    return any(_says_so(found) for found in chain_of(error))


def _says_so(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(_is_of_library(kind, error) for kind in type(error).__mro__)


def _is_of_library(kind: type, error: BaseException) -> bool:
    library = kind.__module__.partition(".")[0]
    if library == "torch":
        return kind.__name__ == "OutOfMemoryError"
    if library == "onnxruntime":  # one class for all that fails in a node of the graph
        return any(text in str(error) for text in ("Failed to allocate memory", "bad_alloc", "out of memory"))
    return kind is RuntimeError and "DefaultCPUAllocator: " in str(error)  # of PyTorch on a CPU
