"""Where the pipeline of a flow runs: in each API process, or in a process of its own that API processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .engine.engine import LocalEngine
from .engine.interface import Engine
from .engine.options import EngineOptions
from .engine.shared.client import RemoteEngine
from .engine.shared.fingerprint import fingerprint_of
from .engine.shared.handshake import Hello
from .engine.shared.plan import make_plan
from .engine.shared.process import start_pipeline
from .engine.shared.rendezvous import HostRendezvous, Rendezvous, SocketRendezvous
from .engine.shared.replacements import Replacements
from .engine.shared.second_process import is_second_process
from .engine.shared.socket_path import check_path
from .exceptions import ConfigurationError
from .flow import Flow
from .logger import log

VARIABLE = "AQUEDUCT_PIPELINE"
"""The environment variable that says where pipelines run if the code does not."""

_UNIX = "unix:"
_FLOW = "{flow}"


@dataclass(frozen=True)
class PipelinePlace:
    """Where the pipelines of the flows of an application run.

    Attributes:
        kind: In each API process ("own"); in a process that the API processes of a server share, which the first of
            them starts ("host"); in a process that is started otherwise ("unix").
        path: For "unix" the path of its socket, in which ``{flow}`` stands for the name of the flow.
    """

    kind: Literal["own", "host", "unix"]
    path: str = ""

    @classmethod
    def read(cls, given: str | None) -> PipelinePlace:
        """Read it from an argument, or else from the environment.

        Args:
            given: The argument; None: what AQUEDUCT_PIPELINE says, or "own".

        Raises:
            ConfigurationError: It is no place.
        """
        source, text = "pipeline", given
        if text is None:
            source, text = VARIABLE, os.environ.get(VARIABLE) or "own"
        if text == "own":
            return cls("own")
        if text == "host":
            return cls("host")
        if isinstance(text, str) and text.startswith(_UNIX):
            return cls("unix", text.removeprefix(_UNIX))
        raise ConfigurationError(f'{source} must be "own", "host" or "unix:" and the path of a socket, got {text!r}')

    def check(self, flows: Sequence[Flow]) -> None:
        """Check that flows can run there.

        Args:
            flows: The flows of one application.

        Raises:
            ConfigurationError: They would share a pipeline process, or a path is none.
        """
        if self.kind == "own":
            return
        names = [flow.name for flow in flows]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"flows with pipeline processes are told apart by their names, and these are {', '.join(names)}: give "
                'each its own, Flow(..., name="ocr")'
            )
        if self.kind == "unix":
            if len(names) > 1 and _FLOW not in self.path:
                raise ConfigurationError(
                    f"each of the flows {', '.join(names)} needs a socket of its own, and all would use {self.path}: "
                    f"put {_FLOW} into the path, such as unix:/run/pipelines/{_FLOW}.sock"
                )
            for name in names:
                self._socket_of(name)

    def assign(self, flows: Sequence[Flow]) -> None:
        """Have flows run there when they are started next. Warn if this is a second process with pipelines of its own.

        Args:
            flows: The flows.
        """
        for flow in flows:
            flow._lifecycle.build_by_default(self._builder())
        if self.kind == "own" and is_second_process(*(flow.name for flow in flows)):
            workers = sum(step.nprocs for flow in flows for step in flow.steps.values())
            log.warning(
                "each process of the server with the parent %d runs flow %s with %d workers of its own, which load the "
                'models again: Aqueduct(..., pipeline="host") or %s=host makes all processes share one pipeline',
                *(os.getppid(), ", ".join(flow.name for flow in flows), workers, VARIABLE),
            )

    def _builder(self) -> Callable[[EngineOptions], Engine]:
        if self.kind == "own":
            return LocalEngine.build
        return self._remote

    def _remote(self, options: EngineOptions) -> RemoteEngine:
        replacements = Replacements(len(options.steps))
        return RemoteEngine(options, self._rendezvous(options, replacements), replacements)

    def _rendezvous(self, options: EngineOptions, replacements: Replacements) -> Rendezvous:
        version = sys.modules[__name__.partition(".")[0]].__version__
        if self.kind == "unix":
            # No fingerprint: the other side may be of another image that has the same steps.
            hello = Hello(version, options.name, "", os.getpid())
            steps = tuple(name for name, _ in options.steps)
            return SocketRendezvous(hello, self._socket_of(options.name), steps, options.timing)
        hello = Hello(version, options.name, fingerprint_of(options), os.getpid())

        def launch(path: str, lock_fd: int) -> subprocess.Popen[bytes]:
            return start_pipeline(replacements.apply(make_plan(options)), path, lock_fd)

        return HostRendezvous(hello, launch, options.timing)

    def _socket_of(self, name: str) -> str:
        if _FLOW in self.path and "/" in name:
            raise ConfigurationError(f"the name of flow {name} cannot be a part of the path {self.path}")
        path = self.path.replace(_FLOW, name)
        check_path(path)
        return path
