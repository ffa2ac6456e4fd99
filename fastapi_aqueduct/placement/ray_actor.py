"""RayActor: the declaration that each worker of a step runs its handler in an actor of a Ray cluster.

Nothing of Ray is imported here: the process that declares a step needs no connection to a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from ..exceptions import ConfigurationError, got


@dataclass(frozen=True)
class RayActor:
    """Runs the handler of each worker of a step in an actor of a Ray cluster, on whichever machine has the resources.

    ::

        FlowStep(Detect(), nprocs=4, batch_size=8, worker=WorkerOptions(placement=RayActor(num_gpus=0.5)))

    The step has its workers as before, here as stand-ins: each owns one actor, sends it the tasks, and ends with it. It
    needs the extra ``ray``, and a Ray node on this machine (``ray start --address=...``). The handler, the classes of
    its tasks and this package must be importable on the other machines.

    Attributes:
        address: Address of the cluster, ``"host:port"`` of its head. ``"auto"``: that of RAY_ADDRESS, or of the node
            that runs on this machine.
        num_cpus: Cores that the actor occupies for its scheduling.
        num_gpus: GPUs that it occupies; of a part, such as 0.5, actors share one. It sees no others.
        resources: Further resources of the cluster that it occupies, such as ``{"a100": 1}``.
        runtime_env: What Ray prepares on the machine before the actor starts: ``{"working_dir": ...}``,
            ``{"env_vars": ...}``, ``{"pip": ...}``.

    Raises:
        ConfigurationError: A value cannot work.
    """

    _: KW_ONLY
    address: str = "auto"
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not self.address:
            raise ConfigurationError(f'RayActor needs an address, "auto" or "host:port", {got(self.address)}')
        if self.address == "local" or "://" in self.address:
            raise ConfigurationError(
                f"RayActor cannot use the address {self.address!r}: a worker joins the cluster through the Ray node of "
                'its own machine, so start one there (ray start --address=...) and give "auto", or "host:port"'
            )
        for name in ("num_cpus", "num_gpus"):
            _check_amount(name, getattr(self, name))
        for name in ("resources", "runtime_env"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ConfigurationError(f"RayActor needs a dict with names as keys as {name}, {got(value)}")
        for name, amount in self.resources.items():
            if name in ("CPU", "GPU"):
                raise ConfigurationError(f"RayActor has num_cpus and num_gpus: leave {name} out of resources")
            _check_amount(f"an amount of {name} in resources", amount)


def _check_amount(what: str, amount: object) -> None:
    if not isinstance(amount, int | float) or isinstance(amount, bool) or not 0 <= amount < math.inf:
        raise ConfigurationError(f"RayActor needs a number >= 0 as {what}, {got(amount)}")
