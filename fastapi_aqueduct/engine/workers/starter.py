"""Makes what the workers of a flow run, and starts them: each in a process of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from ...handler import BaseTaskHandler
from ..child.importing import check_not_importing, explain_forkserver
from ..options import EngineOptions
from ..system.cpu import available_cores
from .environment import WorkerEnvironment, make_environment
from .group import Group, ProcessGroup
from .interpreter import check_interpreter
from .process import Descriptors, ForkserverProcess, SpawnedProcess
from .spec import SpecMaker, SpecSource, WorkerSpec
from .template import Template
from .template_keeper import TemplateKeeper


class Starter(Protocol):
    """Starts the workers of a flow.

    Attributes:
        template: What is loaded once for all of them; None if each loads all it needs.
    """

    @property
    def template(self) -> Template | None:
        """As above."""

    def make_specs(self) -> list[WorkerSpec]:
        """Make what the workers of each step run, once for all of them.

        Raises:
            ConfigurationError: The flow cannot be started here.
            StartError: No descriptor or no memory is left.
        """

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make what the workers of a step run with another handler. This may take long: call it in a thread.

        Args:
            spec: What they run now.
            handler: The other handler.

        Raises:
            ConfigurationError: The handler cannot take the place of the one before, or cannot be pickled.
            StartError: No descriptor or no memory is left.
        """

    def environment(self, spec: WorkerSpec, index: int) -> WorkerEnvironment:
        """Return what a worker gets of its machine.

        Args:
            spec: What the worker runs.
            index: Its index in the step.

        Raises:
            Exception: The step declares what cannot be, or its function for the environment has raised.
        """

    def start(
        self,
        spec: WorkerSpec,
        variables: Mapping[str, str],
        sock: socket.socket,
        memory_fd: int,
        trace_fd: int,
        lifeline_fd: int,
    ) -> Group:
        """Start a worker. This blocks for some milliseconds: call it in a thread.

        Args:
            spec: What the worker runs.
            variables: Environment variables to set.
            sock: Its end of the channel, which the caller closes.
            memory_fd: Descriptor of the shared memory.
            trace_fd: Descriptor of the file for its stack.
            lifeline_fd: Read end of a pipe whose write end only this process has.

        Raises:
            Exception: No descriptor or no memory is left.
        """

    def hint(self, exit_code: int | None) -> str:
        """Return what may have ended a worker that has sent no exception; an empty string if nothing is known.

        Args:
            exit_code: The exit status of the worker.
        """


class ProcessStarter:
    """Starts each worker in a process of its own.

    Args:
        options: What the flow declares.
        specs: Makes what workers run; None: it is pickled in this process.
    """

    def __init__(self, options: EngineOptions, specs: SpecSource | None = None) -> None:
        self._options = options
        self._specs = specs or spec_maker(options)
        self._share = share_of_cores(options)
        self._template = TemplateKeeper(options.name, options.start_timeout) if self._specs.has_template else None

    @property
    def template(self) -> Template | None:
        """The template process of the flow; None without the option ``template``."""
        return self._template

    def make_specs(self) -> list[WorkerSpec]:
        """Make what the workers of each step run.

        Raises:
            ConfigurationError: A handler or condition cannot be pickled, this is a worker that imports the module that
                starts the flow, or the application is frozen and does not call `freeze_support`.
            StartError: No descriptor or no memory is left.
        """
        check_interpreter()
        check_not_importing(self._options.name)
        if self._template is None:
            return self._specs.make_all()
        loader = self._specs.make_loader()
        with ExitStack() as undo:
            undo.callback(loader.program.close)
            specs = self._specs.make_all()
            undo.pop_all()
        self._template.set_programs(loader, [spec.program for spec in specs if spec.program is not None])
        return specs

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make what the workers of a step run with another handler; see `Starter.renew`."""
        return self._specs.renew(spec, handler)

    def environment(self, spec: WorkerSpec, index: int) -> WorkerEnvironment:
        """Return what a worker gets of its machine; see `Starter.environment`."""
        return make_environment(spec.step.worker, index, self._share, os.environ)

    def start(
        self,
        spec: WorkerSpec,
        variables: Mapping[str, str],
        sock: socket.socket,
        memory_fd: int,
        trace_fd: int,
        lifeline_fd: int,
    ) -> Group:
        """Start the process of a worker; see `Starter.start`.

        Raises:
            Exception: No descriptor or no memory is left, the forkserver cannot import the user's script, or a new
                template cannot load.
        """
        assert spec.program is not None
        descriptors = Descriptors(memory_fd, trace_fd, lifeline_fd, spec.program.fd)
        if self._template is not None:
            return ProcessGroup(self._template.start(spec.program, sock, descriptors, variables))
        kind = SpawnedProcess if self._options.start_method == "spawn" else ForkserverProcess
        return ProcessGroup(kind(sock, descriptors, f"{self._options.name}:{spec.name}", variables))

    def hint(self, exit_code: int | None) -> str:
        """Return what may have ended a worker; see `Starter.hint`."""
        if self._options.start_method == "forkserver" and exit_code == 1:
            return f"; {explain_forkserver()}"
        return ""


def spec_maker(options: EngineOptions) -> SpecMaker:
    """Return what pickles the programs of a flow.

    Args:
        options: What the flow declares.
    """
    return SpecMaker(
        *(options.name, options.steps, options.context, options.worker_init, options.template, options.shape)
    )


def share_of_cores(options: EngineOptions) -> int:
    """Return how many cores there are for each worker of a flow.

    An elastic step counts with its maximum: too few threads slow a worker down while others sleep, too many slow all of
    them down when there is most to do.
    """
    return max(1, available_cores() // sum(step.most_workers for _, step in options.steps))
