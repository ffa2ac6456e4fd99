"""The process that `SocketFlow.preload` has started, as programs for the package aqueduct use it."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess

from ..replaced import explain_members


class PipelineProcess:
    """A pipeline process, with the methods of ``multiprocessing.Process``.

    Args:
        process: The process.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    @property
    def exitcode(self) -> int | None:
        """Its exit status; negative: the number of a signal; None while it runs."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self._process.poll() is None

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end.

        Args:
            timeout: Seconds to wait; None: no limit.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def terminate(self) -> None:
        """Have it stop when its tasks have ended; a second call ends them."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill it; its workers end with it."""
        self._process.kill()


@explain_members("multiprocessing.ProcessContext")
class ProcessContext:
    """What `SocketFlow.preload` returns: the pipeline process.

    It ends with the process that has started it, however that ends; at an ordinary exit it is stopped and waited for.

    Args:
        process: The process.
        stop_timeout: Seconds for which an exit waits for it.

    Attributes:
        processes: The process, as the only item of a list.
    """

    def __init__(self, process: subprocess.Popen[bytes], stop_timeout: float) -> None:
        self.processes = [PipelineProcess(process)]
        self._stop_timeout = stop_timeout
        self._owner = os.getpid()
        atexit.register(self._end_at_exit)

    def pids(self) -> list[int]:
        """Return the process ids."""
        return [process.pid for process in self.processes]

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the processes, as `join_all`.

        Args:
            timeout: Seconds to wait; None: no limit.
        """
        return self.join_all(timeout)

    def join_all(self, timeout: float | None = None) -> bool:
        """Wait for the end of the processes; tell whether all have ended.

        Args:
            timeout: Seconds to wait for each; None: no limit.
        """
        for process in self.processes:
            process.join(timeout)
        return not any(process.is_alive() for process in self.processes)

    def _end_at_exit(self) -> None:
        if os.getpid() != self._owner:  # a fork, such as a worker of gunicorn
            return
        for process in self.processes:
            if process.is_alive():
                process.terminate()
                process.join(self._stop_timeout)
            if process.is_alive():
                process.kill()
                process.join()
