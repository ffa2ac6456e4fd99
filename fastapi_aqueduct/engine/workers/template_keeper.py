"""Keeps a template process for a flow: loads it, has it fork workers, and loads another one after its death."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence

from ...exceptions import StartError, StartTimeout, describe_exit
from ...logger import log
from ..child.importing import NotImportable, explain
from ..child.program import ProgramFile
from ..statistics import TemplateStatistics
from ..wire.exception_pickle import describe
from ..wire.failures import unpack_failure
from .environment import THREAD_VARIABLES
from .process import Descriptors
from .spec import Loader
from .template import Template
from .template_process import ForkedProcess, TemplateProcess

FORK_TIME = 10.0
"""Seconds in which a template must have forked a worker; a fork that copies page tables of 100 GB takes one."""


class TemplateKeeper(Template):
    """Keeps the template process of a flow.

    The threads that start workers call `load` and `start`, one at a time. All else belongs to the thread of the event
    loop. A template that dies is not missed until a worker is to be started: then another one loads first.

    Args:
        flow: Name of the flow.
        start_timeout: Seconds in which a template must have loaded that is not the first.
    """

    def __init__(self, flow: str, start_timeout: float) -> None:
        self._flow = flow
        self._start_timeout = start_timeout
        self._loader: ProgramFile
        self._programs: Sequence[ProgramFile] = ()
        self._prelude = b""
        self._lock = threading.Lock()
        self._loads = 0
        self._failure = ""
        self._loading: TemplateProcess | None = None
        self._ready: TemplateProcess | None = None
        self._processes: list[TemplateProcess] = []  # also those that have ended and are not closed yet
        self._is_shut = False
        self._deaths = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def set_programs(self, loader: Loader, programs: Sequence[ProgramFile]) -> None:
        """Say what a template loads, before `load`.

        Args:
            loader: The function of the user, whose memory this releases.
            programs: What the workers of the steps run.
        """
        self._loader, self._prelude = loader
        self._programs = programs

    def load(self, lifeline_fd: int) -> None:
        """Load the first template; see `Template.load`. Its time is that of the start of the flow."""
        with self._turn():
            self._load(lifeline_fd, math.inf)

    def start(
        self, program: ProgramFile, sock: socket.socket, descriptors: Descriptors, environment: Mapping[str, str]
    ) -> ForkedProcess:
        """Start a worker.

        Args:
            program: What it runs.
            sock: Its end of the channel.
            descriptors: What it gets beside that.
            environment: Variables to set, beside those of this process.

        Raises:
            StartError: A new template could not be loaded, or the one that is there could not fork the worker.
            OSError: The system has no descriptor or no memory left.
        """
        own = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
        request = program, sock, descriptors, {**own, **environment}, FORK_TIME
        with self._turn():
            template = self._ready or self._load(descriptors.lifeline, self._start_timeout)
            try:
                try:
                    return template.fork(*request)
                except ConnectionError:  # it has died before
                    self._leave(template)
                    template = self._load(descriptors.lifeline, self._start_timeout)
                    return template.fork(*request)
            except (EOFError, TimeoutError, ConnectionError) as exc:
                template.kill()
                self._leave(template)
                what = "hangs" if isinstance(exc, TimeoutError) else "has died"
                raise self._error(template, f"{what} while a worker was forked from it") from exc

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other thread loads or starts; what has failed for that has failed for those that waited."""
        loads = self._loads
        with self._lock:
            try:
                if self._failure and self._loads != loads:
                    raise StartError(self._failure)
                yield
            finally:
                self._close_ended()

    def _load(self, lifeline_fd: int, timeout: float) -> TemplateProcess:
        self._loads += 1
        self._failure = ""
        template = TemplateProcess(
            *(self._flow, self._prelude, self._loader, self._programs, lifeline_fd, self._on_end)
        )
        self._loading = template
        try:
            self._wait_loaded(template, timeout)
        except BaseException as exc:
            template.close()
            self._failure = str(exc)
            raise
        finally:
            self._loading = None
        self._ready = template
        self._processes.append(template)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed; another one attaches all
                self._loop.call_soon_threadsafe(self._watch, template)
        return template

    def _wait_loaded(self, template: TemplateProcess, timeout: float) -> None:
        if self._is_shut:
            raise self._error(template, "was stopped with the flow")
        try:
            loaded = template.wait_loaded(timeout)
        except (EOFError, ConnectionError):
            template.wait_end(1.0)
            template.close()
            if self._is_shut:
                raise self._error(template, "was stopped with the flow") from None
            stack = f"\n{template.trace()}" if template.trace() else ""
            raise self._error(template, f"{describe_exit(template.exit_code)} while it was loading{stack}") from None
        except TimeoutError:
            stack = template.dump()
            message = f"the template of flow {self._flow} had not loaded in start_timeout={timeout:g} s:\n{stack}"
            raise StartTimeout(message, pid=template.pid) from None
        if loaded.failure:
            phase, failure = unpack_failure(loaded.failure, f"the template of flow {self._flow}")
            text = explain(failure) if isinstance(failure, NotImportable) else f"{describe(failure)}"
            raise self._error(template, f"failed in {phase}: {text}") from failure
        if loaded.lost:
            log.warning(
                "template of flow %s returns a %s that nothing keeps, so workers cannot use it: decorate the function "
                "with functools.cache and call it in on_start, or assign the value to a variable of a module",
                *(self._flow, loaded.lost),
            )

    def _error(self, template: TemplateProcess, what: str) -> StartError:
        message = f"the template of flow {self._flow} (pid {template.pid}) {what}"
        return StartError(message, pid=template.pid, exit_code=template.exit_code)

    def _leave(self, template: TemplateProcess) -> None:
        self._ready = None
        if not template.sentinel.sees_end:
            template.note_end()

    def interrupt(self) -> None:
        """Kill a template that is loading."""
        template = self._loading
        if template is not None:
            template.kill()

    def shut(self) -> None:
        """Kill a template that is loading, and load no other one."""
        self._is_shut = True
        self.interrupt()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report the death of the template from an event loop."""
        self._loop = loop
        for template in list(self._processes):
            self._watch(template)

    def detach(self) -> None:
        """Stop watching; `attach` sees what has happened meanwhile."""
        self._loop = None
        for template in list(self._processes):
            template.sentinel.detach()

    def close(self) -> None:
        """Kill the template, and close all descriptors."""
        for template in self._processes:
            template.close()
        self._processes.clear()
        self._ready = None
        self._loader.close()

    def forget(self) -> None:
        """Close the descriptors only: in a forked child, which does not own the template."""
        for template in (self._loading, *self._processes):
            if template is not None:
                template.forget()
        self._loader.close()

    def statistics(self) -> TemplateStatistics:
        """Return a snapshot."""
        template = self._ready
        return TemplateStatistics(None if template is None or template.has_ended else template.pid, self._deaths)

    def _watch(self, template: TemplateProcess) -> None:
        if self._loop is not None and template in self._processes and not template.has_ended:
            template.sentinel.attach(self._loop)

    def _on_end(self, template: TemplateProcess) -> None:
        self._deaths += 1
        if self._ready is template:
            self._ready = None
        if not self._is_shut:
            log.error(
                "the template of flow %s (pid %d) %s; its workers go on, and another one loads before the next worker",
                *(self._flow, template.pid, describe_exit(template.exit_code)),
            )
        if self._lock.acquire(blocking=False):  # else the thread that has the lock closes it
            self._close_ended()
            self._lock.release()

    def _close_ended(self) -> None:
        for template in list(self._processes):
            if template.has_ended:
                self._processes.remove(template)
                template.close()
