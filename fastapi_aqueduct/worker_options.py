"""WorkerOptions: what each worker of a step gets of its machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .devices import Device
from .exceptions import ConfigurationError, got
from .placement.ray_actor import RayActor


@dataclass(frozen=True)
class WorkerOptions:
    """What each worker of a step gets of its machine; `worker_info` tells the handler.

    ::

        FlowStep(Classify(), nprocs=2, worker=WorkerOptions(devices=["0", "1"]))

    All of it is environment variables of the worker's process, which are set before the handler's module is imported.
    Within `fastapi_aqueduct.testing.inline` none is set, and ``env`` is not called.

    Attributes:
        devices: Dealt to the workers by their index: the first one gets ``devices[0]``, and after the last device the
            first one is next. A worker sees its device only. ``"0"`` and ``"cuda:0"`` are set as CUDA_VISIBLE_DEVICES,
            also UUIDs as of ``nvidia-smi -L`` (``"GPU-..."``, ``"MIG-..."``), ``"hip:0"`` as HIP_VISIBLE_DEVICES,
            ``"xpu:0"`` as ZE_AFFINITY_MASK. ``"0,1"`` gives one worker two devices. ``"cpu"`` sets nothing. Numbers
            count the devices that the API process sees: with CUDA_VISIBLE_DEVICES=4,5 in its environment, ``"1"`` is 5.
        env: Further environment variables, or a function of the index that returns them. The function is called in the
            API process whenever a worker is launched, in its event loop, so it should be quick. A replacement has the
            index of the worker that it replaces.
        threads: Threads of numeric libraries in each worker, as OMP_NUM_THREADS and its relatives. A variable that is
            set in the environment of the API process, or in ``env``, is left as it is. Default: the cores, divided by
            the number of workers of the flow.
        placement: Where the handler runs: None for a process of this machine, or a `RayActor`.

    Raises:
        ConfigurationError: A value cannot work.
    """

    devices: Sequence[str] = ()
    env: Mapping[str, str] | Callable[[int], Mapping[str, str]] | None = None
    threads: int | None = None
    placement: RayActor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.devices, str) or not isinstance(self.devices, Sequence):
            raise ConfigurationError(f'WorkerOptions needs a list of devices, such as ["0", "1"], {got(self.devices)}')
        devices = [Device.parse(device) for device in self.devices]
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ConfigurationError(f"WorkerOptions needs threads >= 1, {got(self.threads)}")
        if isinstance(self.env, Mapping):
            _check_variables(self.env, devices)
        elif self.env is not None and not callable(self.env):
            raise ConfigurationError(f"WorkerOptions needs a dict of variables or a function as env, {got(self.env)}")
        if self.placement is not None:
            self._check_placement()

    def _check_placement(self) -> None:
        if not isinstance(self.placement, RayActor):
            raise ConfigurationError(f"WorkerOptions needs a RayActor as placement, {got(self.placement)}")
        for name, instead in (
            ("devices", "num_gpus"),
            ("env", 'runtime_env={"env_vars": {...}}'),
            ("threads", "num_cpus, from which Ray sets OMP_NUM_THREADS"),
        ):
            if getattr(self, name):
                raise ConfigurationError(
                    f"WorkerOptions has {name}, which is of this machine, and a placement on another one: leave out "
                    f"{name}, and give RayActor {instead}"
                )

    def device(self, index: int) -> Device | None:
        """Return what a worker gets of ``devices``; None where there are none.

        Args:
            index: The index of the worker.
        """
        return Device.parse(self.devices[index % len(self.devices)]) if self.devices else None

    def variables(self, index: int) -> Mapping[str, str]:
        """Return what a worker gets by ``env``.

        Args:
            index: The index of the worker.

        Raises:
            ConfigurationError: The function has returned what no process can have.
        """
        if not callable(self.env):
            return self.env or {}
        variables = self.env(index)
        device = self.device(index)
        _check_variables(variables, [] if device is None else [device])
        return variables


def _check_variables(variables: Any, devices: Sequence[Device]) -> None:
    if not isinstance(variables, Mapping) or not all(
        isinstance(text, str) for item in variables.items() for text in item
    ):
        raise ConfigurationError(f"env of WorkerOptions needs names and values that are strings, {got(variables)}")
    for device in devices:
        for name in device.variables.keys() & variables.keys():
            raise ConfigurationError(f"WorkerOptions has devices, and {name} in env: leave out one of the two")
