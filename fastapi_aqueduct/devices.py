"""Devices of a machine, as a step declares them and as its workers see them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from .exceptions import ConfigurationError, got


class _Kind(NamedTuple):
    """A kind of devices.

    Attributes:
        variable: From which its driver reads what a process sees.
        inside: What libraries call the first one that they see.
        ids: What may stand in the variable.
    """

    variable: str
    inside: str
    ids: re.Pattern[str]


_KINDS = {
    # https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    "cuda": _Kind("CUDA_VISIBLE_DEVICES", "cuda:0", re.compile(r"\d+|(?:GPU|MIG)-[\w/-]+", re.ASCII)),
    # https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html; PyTorch calls these "cuda", too.
    "hip": _Kind("HIP_VISIBLE_DEVICES", "cuda:0", re.compile(r"\d+|GPU-\w+", re.ASCII)),
    # https://oneapi-src.github.io/level-zero-spec/level-zero/latest/core/PROG.html#affinity-mask; 0.1 is a part of 0.
    "xpu": _Kind("ZE_AFFINITY_MASK", "xpu:0", re.compile(r"\d+(?:\.\d+)?", re.ASCII)),
}


class Device(NamedTuple):
    """What one worker gets: a device, or several of one kind.

    Attributes:
        kind: ``"cuda"``, ``"hip"`` or ``"xpu"``; ``"cpu"`` for none.
        ids: Their numbers or UUIDs.
    """

    kind: str
    ids: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a declaration such as ``"0"``, ``"cuda:1"``, ``"0,1"``, ``"MIG-..."``, ``"xpu:2"`` or ``"cpu"``.

        Raises:
            ConfigurationError: It is none.
        """
        if text == "cpu":
            return cls("cpu")
        kind, _, ids = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        device = cls(kind or "cuda", tuple(ids.split(",")))
        known = _KINDS.get(device.kind)
        if known is None or not all(known.ids.fullmatch(id) for id in device.ids):
            raise ConfigurationError(
                'a device is a number or a UUID, such as "0", "cuda:1", "GPU-...", "MIG-...", "hip:0" or "xpu:2", '
                f'several for one worker such as "0,1", or "cpu", {got(text)}'
            )
        return device

    @property
    def id(self) -> str:
        """The numbers or UUIDs with commas between them."""
        return ",".join(self.ids) or self.kind

    @property
    def inside(self) -> str:
        """The name by which libraries find the first one in a worker that sees no others."""
        return _KINDS[self.kind].inside if self.kind in _KINDS else self.kind

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which a process sees these only."""
        return {_KINDS[self.kind].variable: self.id} if self.kind in _KINDS else {}

    def among(self, environ: Mapping[str, str]) -> Self:
        """Return the devices with the numbers that the machine has for them.

        A process that was given some of the devices of a machine, by Slurm or a container, counts those.

        Args:
            environ: The environment of the process that counts.

        Raises:
            ConfigurationError: It sees fewer.
        """
        variable = next(iter(self.variables), "")
        if variable not in environ:
            return self
        visible = environ[variable].split(",")
        return self._replace(ids=tuple(self._find(id, variable, visible) for id in self.ids))

    def _find(self, id: str, variable: str, visible: list[str]) -> str:
        if not id.isdecimal():
            return id
        found = visible[int(id)].strip() if int(id) < len(visible) else ""
        if not _KINDS[self.kind].ids.fullmatch(found):
            raise ConfigurationError(
                f"there is no device {id} among those that this process sees, {variable}={','.join(visible)}, "
                "where they count from 0"
            )
        return found
