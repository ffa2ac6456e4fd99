"""The limits of the control groups of Linux, in both versions (cgroups(7))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_KILLS = re.compile(r"^oom_kill (\d+)", re.MULTILINE)


class ControlGroup:
    """The control group of this process and the groups that contain it, which limit it as well.

    Where there are no groups, or they cannot be read, nothing is limited.

    Args:
        mounted: Mount point of the groups.
        table: The file that lists the process's group in each hierarchy.
    """

    def __init__(self, mounted: Path = Path("/sys/fs/cgroup"), table: Path = Path("/proc/self/cgroup")) -> None:
        self._mounted = mounted
        self._table = table

    def memory_limit(self) -> int | None:
        """Return the memory limit in bytes; None if there is none."""
        texts = [*self._read("", "memory.max"), *self._read("memory", "memory.limit_in_bytes")]
        return min((int(text) for text in texts if text.isdecimal()), default=None)

    def free_memory(self) -> int | None:
        """Return the bytes that the memory limits leave to this process; None if nothing is limited.

        Cached files that no process has read for a while count as free: the kernel drops them when memory is wanted.
        """
        left = []
        for controller, limit, usage, cold in (
            ("", "memory.max", "memory.current", "inactive_file"),
            ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            for directory in self._directories(controller):
                most, used = _number(directory / limit), _number(directory / usage)
                if most is not None and used is not None:
                    dropped = re.search(rf"^{cold} (\d+)", _text(directory / "memory.stat"), re.MULTILINE)
                    left.append(max(0, most - used + (int(dropped[1]) if dropped else 0)))
        return min(left, default=None)

    def cpu_limit(self) -> float | None:
        """Return the limit in processors, which may be a fraction; None if there is none."""
        quotas, periods = self._read("cpu", "cpu.cfs_quota_us"), self._read("cpu", "cpu.cfs_period_us")
        limits = [text.split() for text in self._read("", "cpu.max")]
        limits += [[quota, period] for quota, period in zip(quotas, periods, strict=False)]
        return min((int(quota) / int(period) for quota, period in limits if quota.isdecimal()), default=None)

    def out_of_memory_kills(self) -> int:
        """Return the number of processes of the group that the kernel has killed because memory ran out."""
        for text in (*self._read("", "memory.events"), *self._read("memory", "memory.oom_control")):
            if found := _KILLS.search(text):
                return int(found[1])
        return 0

    def _read(self, controller: str, file: str) -> Iterator[str]:
        """Read a file of the group and of those that contain it, innermost first.

        Args:
            controller: The controller of a hierarchy of version 1; empty for version 2.
            file: Name of the file.
        """
        for directory in self._directories(controller):
            # The outermost has no limits, and a container may not see its group under the name it has outside.
            if text := _text(directory / file):
                yield text

    def _directories(self, controller: str) -> Iterator[Path]:
        try:
            lines = self._table.read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            _, controllers, group = line.split(":", 2)
            if controller in controllers.split(","):
                # Both layouts are common: the hierarchy of version 2 may lie beside those of version 1, whose
                # directories are named after all their controllers.
                for name in (controllers, controller) if controller else ("", "unified"):
                    root = self._mounted / name
                    inner = root / group.lstrip("/")
                    yield from (inner, *(outer for outer in inner.parents if outer.is_relative_to(root)))


def _text(file: Path) -> str:
    """Return what is in a file; nothing if it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is none, as where nothing is limited."""
    text = _text(file)
    return int(text) if text.isdecimal() else None
