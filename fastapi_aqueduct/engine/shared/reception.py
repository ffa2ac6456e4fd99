"""Reception: receives API processes that connect to a pipeline process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...exceptions import ConfigurationError
from ...logger import log
from .handshake import HandshakeError, Hello, NoAnswer, ServerEnd, receive_hello, send_failure, send_refusal

_BACKLOG = 128

_PAUSE = 1.0
"""Seconds until connections are accepted again after that has failed."""

_THREADS = 32
"""Hellos that are read at the same time: one that does not come holds up a thread for some seconds."""


def listen(path: str) -> socket.socket:
    """Return a listening socket for API processes of this user.

    Args:
        path: Where it is. The caller has the lock of this path: a socket that is there is one that a process which has
            ended has left.

    Raises:
        ConfigurationError: There can be no socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"a pipeline process cannot listen at {path}, of {len(os.fsencode(path))} bytes, where the system allows "
            f"about 100: {exc}"
        ) from exc
    return listener


class Reception:
    """Reads the hellos of API processes, and lets them wait until the pipeline has started.

    Args:
        listener: A listening socket.
        expected: The hello that this process would send itself.
        on_change: Called when an API process has come or has given up.
    """

    def __init__(self, listener: socket.socket, expected: Hello, on_change: Callable[[], None]) -> None:
        self._listener = listener
        self._expected = expected
        self._on_change = on_change
        self._path = listener.getsockname()
        self._admit: Callable[[ServerEnd], None] | None = None
        self._is_closed = False
        self._waiting: list[ServerEnd] = []
        self._hellos: dict[socket.socket, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="aqueduct-hello")
        self._loop: asyncio.AbstractEventLoop

    @property
    def present(self) -> int:
        """Number of API processes that have connected and are not admitted yet."""
        return len(self._waiting) + len(self._hellos)

    def open(self) -> None:
        """Accept connections, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._watch()

    def serve(self, admit: Callable[[ServerEnd], None]) -> None:
        """Admit all API processes that wait, and all that come from now on.

        Args:
            admit: Answers an API process, and owns the connection from then on.
        """
        self._admit = admit
        for end in self._waiting.copy():
            self._take(end)
            admit(end)

    async def fail(self, exception: Exception) -> None:
        """Tell all who wait, or are just connecting, that the start has failed, and close."""
        self._accept()
        self._unlisten()
        if self._hellos:
            await asyncio.wait(self._hellos.values())
        for end in self._waiting.copy():
            self._take(end)
            await asyncio.to_thread(send_failure, end, exception)
        self.close()

    def close(self) -> None:
        """End all connections without an answer, which lets API processes look for another pipeline."""
        self._is_closed = True
        self._unlisten()
        for end in self._waiting.copy():
            self._take(end)
            end.close()
        for sock in self._hellos:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # the thread that reads from it closes it
        self._threads.shutdown(wait=False)

    def _unlisten(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            Path(self._path).unlink(missing_ok=True)
            self._listener.close()

    def _watch(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # no descriptor or no memory is left, and the connection stays in the backlog
                log.warning("an API process cannot connect to flow %s yet: %s", self._expected.flow, exc)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_PAUSE, self._watch)
                return
            sock.setblocking(True)
            self._hellos[sock] = self._loop.create_task(self._receive(sock))

    async def _receive(self, sock: socket.socket) -> None:
        flow = self._expected.flow
        end = None
        try:
            end = await self._loop.run_in_executor(self._threads, receive_hello, sock)
        except NoAnswer:
            pass
        except (HandshakeError, OSError) as exc:
            log.info("a process that connects to flow %s is refused: %s", flow, exc)
        finally:
            del self._hellos[sock]
        if end is not None:
            self._sort(end)
        if not self._is_closed:
            self._on_change()

    def _sort(self, end: ServerEnd) -> None:
        flow, mismatch = self._expected.flow, end.hello.mismatch(self._expected)
        if self._is_closed:
            end.close()
        elif mismatch is not None:
            log.warning("the pipeline of flow %s refuses an API process: %s", flow, mismatch)
            self._threads.submit(send_refusal, end, mismatch)
        else:
            if self._admit is not None:
                self._admit(end)
            else:
                log.info("API process %d waits for the start of flow %s", end.hello.pid, flow)
                self._keep(end)

    def _keep(self, end: ServerEnd) -> None:
        """Let an API process wait until the pipeline has started; it gives up when it closes its end, or dies."""
        self._waiting.append(end)
        self._loop.add_reader(end.sock, self._give_up, end)
        if end.pidfd >= 0:
            self._loop.add_reader(end.pidfd, self._give_up, end)

    def _take(self, end: ServerEnd) -> None:
        self._waiting.remove(end)
        self._loop.remove_reader(end.sock)
        if end.pidfd >= 0:
            self._loop.remove_reader(end.pidfd)

    def _give_up(self, end: ServerEnd) -> None:
        self._take(end)
        end.close()
        self._on_change()
